"""Sorting numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import factorial
from random import Random

from cloche.tasks.grading import words_right
from cloche.tasks.graph import Rule
from cloche.tasks.task import Task, Values


@dataclass(frozen=True)
class Sort(Task):
    """`level + 2` different numbers of two digits in ascending order. A variant gives them in another order.

    The graph has the rank of each number: how many are smaller.

    >>> from cloche.tasks import Sort
    >>> item = Sort().example(level=1, seed=0)
    >>> item.prompt, item.answer, item.steps[0]
    ('Numbers: 95 96 42\\nIn ascending order:', '42 95 96', 'rank_1 = 1')
    """

    levels = range(1, 7)
    gap = " "

    def draw(self, level: int, rng: Random) -> Values:
        return {f"number_{i}": number for i, number in enumerate(rng.sample(range(10, 100), level + 2), 1)}

    def template(self, values: Values) -> str:
        return f"Numbers: {' '.join(f'{{{name}}}' for name in values)}\nIn ascending order:"

    def rules(self, values: Values) -> Mapping[str, Rule]:
        names = tuple(values)
        ranks = {f"rank_{i}": Rule(names, partial(_rank, i - 1)) for i in range(1, len(names) + 1)}
        return {**ranks, "answer": Rule((*ranks, *names), _by_rank)}

    def swap(self, values: Values, name: str, rng: Random) -> int:
        return rng.choice([number for number in range(10, 100) if number not in values.values()])

    def isomorphic(self, values: Values, rng: Random) -> Values:
        by = rng.randrange(1, len(values))
        numbers = list(values.values())
        return dict(zip(values, numbers[by:] + numbers[:by], strict=True))

    def canonical(self, values: Values) -> str:
        return self.solution(values)

    def guess(self, values: Values, rng: Random) -> str:
        return " ".join(map(str, rng.sample(list(values.values()), len(values))))

    def chance(self, values: Values) -> Fraction:
        return Fraction(1, factorial(len(values)))

    def partial(self, values: Values, answer: str) -> float:
        return words_right(answer, self.solution(values))


def _rank(i: int, *numbers: int) -> int:
    return sum(number < numbers[i] for number in numbers)


def _by_rank(*ranks_and_numbers: int) -> str:
    half = len(ranks_and_numbers) // 2
    order = sorted(range(half), key=lambda i: ranks_and_numbers[i])
    return " ".join(str(ranks_and_numbers[half + i]) for i in order)
