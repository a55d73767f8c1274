"""The best learning rate at widths 64, 128 and 256, with and without MuP.

A Llama-style model of two layers learns the standard library's text (512 tokens) for some steps of 8 rows of 64 tokens with
AdamW and a constant rate after a warm-up, at seven rates a factor of two apart; heads have 32 entries at every width. The
optimum is read from the parabola through the best rate and its neighbours, in powers of two. Wanted: with MuP it stays
where it is; with the standard parametrisation (the control) it falls about as 1 / width.

    python -m bench.train.mup [--steps 60] [--threads 1]
"""

from __future__ import annotations

import tempfile
import time

import torch

from bench.rounds import asked, table, write
from cloche.data import Batches, PackedTokens, prepare, standard_library
from cloche.model import GLU, LM, Attention, Block, FanIn, Initialisation, MuP, RoPE, Stack
from cloche.train import AdamW, Constant, NextToken, Stepper, StepPlan, total_loss

WIDTHS, POWERS, HEAD, BASE = (64, 128, 256), tuple(range(-11, -4)), 32, 64
LENGTH, BATCH, VOCAB, LAST = 64, 8, 512, 15  # LAST: steps whose mean loss is compared


def loss(train: PackedTokens, width: int, how: Initialisation, lr: float, steps: int) -> float:
    """Mean nats per token over the last steps."""
    block = Block(Attention(width // HEAD, position=RoPE()), GLU("silu", hidden=2 * width))
    net, part = LM(VOCAB, width, Stack(2, block)).build(0, how), AdamW(lr=lr, weight_decay=0.0)
    optimizer, batches = (
        Stepper(net, part, rates=how.rates(net, part.width_powers, "AdamW")),
        Batches(train, LENGTH, BATCH),
    )
    plan, last = StepPlan(steps, Constant(warmup=0.1)), []
    for step in range(steps):
        optimizer.set_rate(plan.rate(step))
        optimizer.zero_grad()
        value = total_loss(NextToken().terms(net, torch.from_numpy(batches.next())))
        value.backward()
        optimizer.clip_gradient()
        optimizer.step()
        last.append(value.item())
    return sum(last[-LAST:]) / LAST


def optimum(losses: list[float]) -> float:
    """log2 of the best rate: the lowest point of the parabola through the best and its neighbours."""
    i = min(range(len(losses)), key=losses.__getitem__)
    if i in (0, len(losses) - 1):
        return float(POWERS[i])
    left, middle, right = losses[i - 1 : i + 2]
    return POWERS[i] + 0.5 * (left - right) / (left - 2 * middle + right)


def main() -> None:
    given = asked(__doc__, steps=60, threads=1)
    begin, rows = time.process_time(), []
    with tempfile.TemporaryDirectory() as folder:
        prepare(standard_library()[:60], folder, vocab=VOCAB)
        train = PackedTokens.open(folder, "train")
        for how in (MuP(BASE), FanIn()):
            for width in WIDTHS:
                losses = [loss(train, width, how, 2.0**power, given.steps) for power in POWERS]
                best = optimum(losses)
                rows.append(
                    {
                        "initialisation": type(how).__name__,
                        "width": width,
                        "best_log2_lr": round(best, 2),
                        "best_lr": round(2.0**best, 5),
                        "best_loss": round(min(losses), 4),
                        "losses": [round(x, 4) for x in losses],
                    }
                )
                print(rows[-1], flush=True)
    moved = {
        name: round(each[-1]["best_log2_lr"] - each[0]["best_log2_lr"], 2)
        for name in ("MuP", "FanIn")
        if (each := [row for row in rows if row["initialisation"] == name])
    }
    keys = ["initialisation", "width", "best_log2_lr", "best_lr", "best_loss"]
    print(table(keys, [[str(row[key]) for key in keys] for row in rows]))
    print(f"the optimum moves from width {WIDTHS[0]} to {WIDTHS[-1]} by 2 to the {moved}")
    record = {
        "what": "log2 of AdamW's best rate by width, with MuP and with the standard parametrisation",
        "steps": given.steps,
        "log2_rates": list(POWERS),
        "rows": rows,
        "moved_from_64_to_256": moved,
        "cpu_seconds": round(time.process_time() - begin),
        "threads": given.threads,
    }
    write("mup", record, "torch")


if __name__ == "__main__":
    main()
