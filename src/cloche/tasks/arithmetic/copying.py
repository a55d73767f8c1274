"""Copying words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from random import Random

from cloche.tasks.grading import words_right
from cloche.tasks.graph import Rule
from cloche.tasks.task import Task, Values
from cloche.tasks.word_lists import WORDS, shifted


@dataclass(frozen=True)
class Copy(Task):
    """The `level + 1` random words of the prompt once more; a word may occur twice. A variant has other words.

    >>> from cloche.tasks import Copy
    >>> item = Copy().example(level=2, seed=0)
    >>> item.prompt, item.answer
    ('Original: dark suit face\\nCopy:', 'dark suit face')
    """

    levels = range(1, 7)
    gap = " "

    def draw(self, level: int, rng: Random) -> Values:
        return {f"word_{i}": word for i, word in enumerate(rng.choices(WORDS, k=level + 1), 1)}

    def template(self, values: Values) -> str:
        return f"Original: {' '.join(f'{{{name}}}' for name in values)}\nCopy:"

    def rules(self, values: Values) -> Mapping[str, Rule]:
        return {"answer": Rule(tuple(values), lambda *words: " ".join(words))}

    def swap(self, values: Values, name: str, rng: Random) -> str:
        return rng.choice(WORDS)

    def isomorphic(self, values: Values, rng: Random) -> Values:
        by = rng.randrange(1, len(WORDS))
        return {name: shifted(word, WORDS, by) for name, word in values.items()}

    def guess(self, values: Values, rng: Random) -> str:
        return " ".join(rng.choices(WORDS, k=len(values)))

    def chance(self, values: Values) -> Fraction:
        return Fraction(1, len(WORDS) ** len(values))

    def partial(self, values: Values, answer: str) -> float:
        return words_right(answer, self.solution(values))
