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
    """The sum of two numbers of `level` digits: `70+57=127`.

    A variant swaps the summands. The graph has the digits and carries of column addition, from the ones on.

    >>> from cloche.tasks import Add
    >>> item = Add().example(level=2, seed=0)
    >>> item.prompt, item.steps
    ('70+57=', ('digit_1 = 7', 'carry_1 = 0', 'digit_2 = 2', 'carry_2 = 1'))
    """

    levels = range(1, 9)

    def draw(self, level: int, rng: Random) -> Values:
        least, most = (0, 9) if level == 1 else (10 ** (level - 1), 10**level - 1)
        return {"a": rng.randint(least, most), "b": rng.randint(least, most)}

    def template(self, values: Values) -> str:
        return "{a}+{b}="

    def rules(self, values: Values) -> Mapping[str, Rule]:
        rules: dict[str, Rule] = {}
        columns = range(1, len(str(max(values.values()))) + 1)
        for i in columns:
            parents = ("a", "b", *([f"carry_{i - 1}"] if i > 1 else []))
            rules[f"digit_{i}"] = Rule(parents, lambda *given, i=i: _column(i, *given) % 10)
            rules[f"carry_{i}"] = Rule(parents, lambda *given, i=i: _column(i, *given) // 10)
        digits = (f"carry_{columns[-1]}", *(f"digit_{i}" for i in reversed(columns)))
        return {**rules, "answer": Rule(digits, lambda *digits: str(int("".join(map(str, digits)))))}

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


def _column(i: int, a: int, b: int, carry: int = 0) -> int:
    """The sum of the i-th digits from the right and the carry into them."""
    return a // 10 ** (i - 1) % 10 + b // 10 ** (i - 1) % 10 + carry
