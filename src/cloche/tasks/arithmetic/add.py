"""Addition, digit by digit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from random import Random

from cloche.tasks.graph import Rule
from cloche.tasks.task import Task, Values


@dataclass(frozen=True)
class Add(Task):
    """The sum of two numbers of `level` digits: `70+57=127`. A variant swaps the summands.

    >>> from cloche.tasks import Add
    >>> Add().example(level=3, seed=0).prompt
    '291+423='
    """

    levels = range(1, 9)

    def draw(self, level: int, rng: Random) -> Values:
        least, most = (0, 9) if level == 1 else (10 ** (level - 1), 10**level - 1)
        return {"a": rng.randint(least, most), "b": rng.randint(least, most)}

    def template(self, values: Values) -> str:
        return "{a}+{b}="

    def rules(self, values: Values) -> Mapping[str, Rule]:
        return {"answer": Rule(("a", "b"), lambda a, b: str(a + b))}

    def swap(self, values: Values, name: str, rng: Random) -> int:
        digits = len(str(values[name]))
        return rng.randint(0 if digits == 1 else 10 ** (digits - 1), 10**digits - 1)

    def isomorphic(self, values: Values, rng: Random) -> Values:
        return {"a": values["b"], "b": values["a"]}

    def canonical(self, values: Values) -> str:
        return "+".join(sorted(map(str, values.values())))

    def guess(self, values: Values, rng: Random) -> str:
        digits = len(self.solution(values))
        return str(rng.randrange(0 if digits == 1 else 10 ** (digits - 1), 10**digits))

    def chance(self, values: Values) -> Fraction:
        digits = len(self.solution(values))
        return Fraction(1, 10 if digits == 1 else 9 * 10 ** (digits - 1))
