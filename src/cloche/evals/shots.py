"""Few-shot prompts, and their controls: shuffled labels, and label words never seen."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from cloche.tasks import Item, Task

__all__ = ["Labels", "Prompt", "few_shot", "unseen_words"]

Labels = Literal["true", "shuffled", "unseen"]
MOST_LABELS = 20  # answers that a task has in all, beyond which they are no labels


@dataclass(frozen=True)
class Prompt:
    """A question as the model reads it, its shots before it; `answers` maps each choice to how it is written here.

    >>> from cloche.evals import few_shot
    >>> from cloche.tasks import Add
    >>> item, *shots = Add().examples(3)
    >>> few_shot(item, shots).text.count("=")
    3
    """

    item: Item
    text: str
    answers: Mapping[str, str]


def few_shot(
    item: Item, shots: Sequence[Item], labels: Labels = "true", words: Mapping[str, str] | None = None, seed: int = 0
) -> Prompt:
    """The prompt of an item after `shots` of the same task, one per line (a blank line between them where prompts have
    several lines). labels: "shuffled" gives every shot the answer of another, a different one as far as the answers
    allow (of two labels the other), and "unseen" writes every answer as in `words`.

    >>> from cloche.evals import few_shot
    >>> from cloche.tasks import Add
    >>> item, *shots = Add().examples(3)
    >>> few_shot(item, shots).text.endswith(item.prompt)
    True
    """
    between = "\n\n" if any("\n" in each.prompt for each in (item, *shots)) else "\n"
    answers = [shot.answer for shot in shots]
    if labels == "shuffled":
        answers = _derangement(answers, Random(f"shuffled {item.problem_id} {seed}"))
    words = words or {}
    lines = [f"{shot.prompt}{shot.gap}{words.get(answer, answer)}" for shot, answer in zip(shots, answers, strict=True)]
    return Prompt(item, between.join([*lines, item.prompt]), words)


def unseen_words(task: Task, items: Sequence[Item], seed: int = 0) -> dict[str, str] | None:
    """A random nonsense word for every choice of a task, None where its items have not all the same few choices.

    >>> from cloche.evals import unseen_words
    >>> from cloche.tasks import Add
    >>> unseen_words(Add(), Add().examples(30)) is None
    True
    """
    labels, *others = {frozenset(task.offered(item)) for item in items}
    if others or not 2 <= len(labels) <= MOST_LABELS:
        return None
    rng = Random(f"unseen {seed}")
    consonants = [letter for letter in string.ascii_lowercase if letter not in "aeiouy"]
    words: set[str] = set()
    while len(words) < len(labels):
        words.add("".join(rng.choice(consonants) for _ in range(5)))
    drawn = sorted(words)
    rng.shuffle(drawn)
    return dict(zip(sorted(labels), drawn, strict=True))


def _derangement(answers: Sequence[str], rng: Random) -> list[str]:
    """The answers in another order, in which as few as possible are where they were.

    In an order where equal answers are side by side, each is moved on by as many places as the commonest has.
    """
    order = sorted(rng.sample(range(len(answers)), len(answers)), key=lambda i: answers[i])
    by = max(Counter(answers).values(), default=0)
    moved = {i: answers[order[(k + by) % len(order)]] for k, i in enumerate(order)}
    return [moved[i] for i in range(len(answers))]
