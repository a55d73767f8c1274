"""What eval counts, computed again from the log-probabilities and from models whose answers are known."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import cloche
from cloche import GLU, LM, Attention, Block, Stack, evals
from cloche.evals import continuation_ids, few_shot, score_ids, unseen_words
from cloche.evals.answering import items_of, shots_of
from cloche.tasks import FromFile, Item, Parity
from tests.evals.bigger import Bigger

Oracle = Callable[[list[str], str], str]


@pytest.fixture(scope="module")
def merging() -> cloche.Glass:
    """A model of a tokenizer that merges, so that tokens, characters and bytes of a choice are three numbers."""
    tokenizer = cloche.train_bpe(["abcabc abcabc", "éééé éééé"] * 9, vocab=280)
    net = LM(tokenizer.vocab, 32, Stack(1, Block(Attention(4), GLU(hidden=64)))).build(seed=4)
    return cloche.Glass(net, tokenizer)


def scored(glass: cloche.Glass, prompt: str, choice: str) -> float:
    return score_ids(glass.net, [continuation_ids(glass.need_tokenizer(), prompt, f" {choice}")])[0].logprob


def test_choices_by_byte_are_those_of_the_largest_log_probability_per_byte(
    merging: cloche.Glass, tmp_path: Path
) -> None:
    """Not per token, per character, or undivided: each of them gives another share."""
    choices = ["x", "abcabc", "éééé", "qrst"]
    answers = [
        choices[i] for i, n in enumerate((11, 7, 4, 2)) for _ in range(n)
    ]  # each choice is right in another share
    rows = [{"prompt": f"{n} is", "answer": answer, "choices": choices} for n, answer in enumerate(answers)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    row = evals.eval(merging, [FromFile(str(tmp_path / "rows.jsonl"))]).data["tasks"][0]
    encode = merging.need_tokenizer().encode
    sizes: dict[str, Callable[[str], int]] = {
        "per byte": lambda text: len(text.encode()),
        "per token": lambda text: len(encode(text)),
        "per character": len,
        "undivided": lambda text: 1,
    }
    right = {
        name: sum(
            max(choices, key=lambda c: scored(merging, each["prompt"], c) / size(f" {c}")) == each["answer"]
            for each in rows
        )
        / len(rows)
        for name, size in sizes.items()
    }
    assert row["choice_per_byte"] == right.pop("per byte") not in right.values()
    assert row["choice"] == right["undivided"]


def reader(text: str, gap: str) -> str:
    """Reads the rule from the shots: of Bigger, which label they give where the first number is the bigger one."""
    *shots, asked = text.split("\n")
    votes = Counter[tuple[bool, str]]()
    for a, b, label in (re.fullmatch(r"(\d+) or (\d+): ?(\S*)", line).groups() for line in shots):  # type: ignore[union-attr]
        votes[int(a) > int(b), label] += 1
    a, b = map(int, re.findall(r"\d+", asked))
    told = {label: n for (bigger, label), n in votes.items() if bigger == (a > b)}
    return f"{gap}{max(told, key=lambda label: told[label])}" if told else ""


def knower(text: str, gap: str) -> str:
    """Knows the task, whatever the shots say."""
    a, b = map(int, re.findall(r"\d+", text.rpartition("\n")[2]))
    return f"{gap}{'first' if a > b else 'other'}"


@pytest.mark.parametrize(("oracle", "unseen", "shuffled"), [(reader, 1.0, 0.0), (knower, 0.0, 1.0)])
def test_who_reads_the_shots_loses_when_they_are_shuffled_and_who_knows_the_task_when_labels_are_new(
    untrained: cloche.Glass, monkeypatch: pytest.MonkeyPatch, oracle: Oracle, unseen: float, shuffled: float
) -> None:
    monkeypatch.setattr(untrained, "generate", lambda prompts, **_: [oracle(text, " ") for text in prompts])
    seed = next(n for n in range(99) if _balanced(shots_of(Bigger(), 2, 8, n)))
    row = evals.eval(untrained, [Bigger()], shots=8, limit=20, level=2, seed=seed).data["tasks"][0]
    assert (row["accuracy"], row["shuffled_labels"], row["unseen_labels"]) == (1, shuffled, unseen)
    none = evals.eval(untrained, [Bigger()], shots=8, limit=20, level=2, seed=seed, controls=False).data["tasks"][0]
    assert not {"shuffled_labels", "unseen_labels"} & none.keys()


def _balanced(shots: list[Item]) -> bool:
    """Four shots of each label, all of which a derangement changes."""
    return Counter(shot.answer for shot in shots)["first"] == 4


def test_the_likeliest_choices_of_the_controls_are_those_after_their_shots(untrained: cloche.Glass) -> None:
    task, seed = Bigger(), 3
    items, shots = items_of(task, 16, 1, seed), shots_of(task, 1, 4, seed)
    row = evals.eval(untrained, [task], shots=4, limit=16, level=1, seed=seed).data["tasks"][0]
    words = unseen_words(task, items, seed)
    assert words is not None and {shot.answer for shot in shots} == set(words)
    for labels, figure in (("true", "choice"), ("shuffled", "shuffled_choice"), ("unseen", "unseen_choice")):
        right = []
        for item in items:
            prompt = few_shot(item, shots, labels, words if labels == "unseen" else None, seed)  # type: ignore[arg-type]
            names = words if labels == "unseen" else {choice: choice for choice in words}
            likeliest = max(names, key=lambda c: scored(untrained, prompt.text, names[c]))
            right.append(likeliest == item.answer)
        assert row[figure] == sum(right) / len(right)


def test_fewer_than_two_shots_cannot_be_shuffled(untrained: cloche.Glass) -> None:
    row = evals.eval(untrained, [Parity()], shots=1, limit=4, level=1).data["tasks"][0]
    assert "shuffled_labels" not in row
