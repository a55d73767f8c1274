"""Whether the levels of each task are levels of difficulty, measured with a model that cannot read them.

A small transformer on bytes is grown on the training items of all levels of one task, mixed, and answers test items of each
level. Accuracy should fall from level to level (Spearman's rank correlation -1); the control is the same correlation with
the levels of the items shuffled. Where the model gets everything right or nothing, the levels are told apart by the loss
of the answer, in nats per item, which is printed beside it.

    python -m bench.tasks.difficulty [--tasks Add Sort] [--steps 600] [--items 60]
"""

from __future__ import annotations

import argparse
from random import Random
from statistics import fmean
from typing import Any

import numpy as np
import torch

import cloche
from bench.rounds import machine, table, write
from cloche import GLU, LM, Attention, Block, RoPE, Stack
from cloche.evals import answer_items, continuation_ids, score_ids
from cloche.tasks import Item, Task, known_tasks

BATCH, WIDTH, LAYERS, POOL = 64, 96, 3, 4_000
END = "\n"


def grown(task: Task, tokenizer: cloche.Tokenizer, steps: int) -> cloche.Glass:
    """A model trained on the answers to training items of all levels."""
    each = POOL // len(task.levels)
    items = [item for level in task.levels for item in task.examples(each, level, seed=1, split="train")]
    Random(0).shuffle(items)
    rows = [continuation_ids(tokenizer, item.prompt, f"{item.gap}{item.answer}{END}") for item in items]
    net = LM(tokenizer.vocab, WIDTH, Stack(LAYERS, Block(Attention(4, position=RoPE()), GLU()))).build(seed=0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, betas=(0.9, 0.98))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 50) * (1 - step / steps)
        batch = [rows[(step * BATCH + i) % len(rows)] for i in range(BATCH)]
        longest = max(len(before) + len(after) for before, after in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        wanted = torch.full((len(batch), longest), -100)
        for i, (before, after) in enumerate(batch):
            ids[i, : len(before) + len(after)] = torch.tensor([*before, *after])
            wanted[i, len(before) : len(before) + len(after)] = torch.tensor(after)
        logits = net(ids[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    return cloche.Glass(net, tokenizer)


def correlation(levels: list[int], values: list[float]) -> float:
    """Spearman's rank correlation; ties share their rank, and no spread at all is 0."""

    def ranks(numbers: list[float]) -> np.ndarray:
        order = np.asarray(numbers, float)
        return np.array([(order < x).sum() + ((order == x).sum() - 1) / 2 for x in order])

    a, b = ranks([float(level) for level in levels]), ranks(values)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else 0.0


def measured(task: Task, tokenizer: cloche.Tokenizer, steps: int, count: int) -> dict[str, Any]:
    glass = grown(task, tokenizer, steps)
    by_level: dict[int, list[Item]] = {
        level: task.examples(count, level, seed=2, split="test") for level in task.levels
    }
    items = [item for found in by_level.values() for item in found]
    right = [answered.strict for answered in answer_items(glass, task, items)]
    asked = [continuation_ids(tokenizer, item.prompt, f"{item.gap}{item.answer}{END}") for item in items]
    nats = [-scored.logprob for scored in score_ids(glass.net, asked)]
    levels = [item.level for item in items]

    def by(values: list[float], labels: list[int]) -> list[float]:
        return [fmean(v for v, label in zip(values, labels, strict=True) if label == level) for level in task.levels]

    shuffled = Random(0).sample(levels, len(levels))
    every = list(task.levels)
    return {
        "accuracy": by(right, levels),
        "nats": by(nats, levels),
        "falls": correlation(every, by(right, levels)),
        "nats_rise": correlation(every, by(nats, levels)),
        "control": correlation(every, by(right, shuffled)),
        "chance": by([float(task.chance(item.values)) for item in items], levels),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--items", type=int, default=60, help="of each level")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # on models this small a second thread only waits
    tokenizer = cloche.train_bpe(["a"], vocab=259)
    found = {}
    for cls, settings in known_tasks():
        if cls.__name__ in ("FromFile", "PromptPair") or (asked.tasks and cls.__name__ not in asked.tasks):
            continue
        del settings
        found[cls.__name__] = row = measured(cls(), tokenizer, asked.steps, asked.items)
        print(
            cls.__name__, [round(value, 2) for value in row["accuracy"]], [round(v, 2) for v in row["nats"]], flush=True
        )
    header = ["task", "accuracy by level", "rank correlation", "of the loss", "levels shuffled"]
    rows = [
        [
            name,
            " ".join(f"{value:.2f}" for value in row["accuracy"]),
            f"{row['falls']:.2f}",
            f"{row['nats_rise']:.2f}",
            f"{row['control']:.2f}",
        ]
        for name, row in found.items()
    ]
    print(table(header, rows))
    if not asked.tasks:
        write("difficulty", {"steps": asked.steps, "items": asked.items, "machine": machine("torch"), "tasks": found})


if __name__ == "__main__":
    main()
