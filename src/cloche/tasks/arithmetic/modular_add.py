"""Addition modulo a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from random import Random

from cloche.errors import SettingRange
from cloche.tasks.graph import Rule
from cloche.tasks.task import Task, Values


@dataclass(frozen=True)
class ModularAdd(Task):
    """The sum of `level + 1` numbers below `p`, modulo `p`: `(37+80) mod 113=4`. A variant has the summands in another order.

    Two summands and p = 113 are the task of Nanda et al., "Progress measures for grokking via mechanistic interpretability"
    (2023). The graph has the sum so far after each summand. Raises SettingRange unless 7 <= p <= 1,000,000.

    >>> from cloche.tasks import ModularAdd
    >>> item = ModularAdd(p=97).example(level=1, seed=0)
    >>> item.prompt, item.answer
    ('(60+32) mod 97=', '92')
    """

    p: int = 113

    levels = range(1, 7)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 7 <= self.p <= 1_000_000:
            raise SettingRange(f"ModularAdd(p={self.p}) must have a p from 7 to 1,000,000.")

    def draw(self, level: int, rng: Random) -> Values:
        return {f"number_{i}": rng.randrange(self.p) for i in range(1, level + 2)}

    def template(self, values: Values) -> str:
        return f"({'+'.join(f'{{{name}}}' for name in values)}) mod {self.p}="

    def rules(self, values: Values) -> Mapping[str, Rule]:
        names = list(values)
        rules, last = {}, names[0]
        for i, name in enumerate(names[1:], 2):
            rules[f"sum_{i}"] = Rule((last, name), lambda a, b: (a + b) % self.p)
            last = f"sum_{i}"
        return {**rules, "answer": Rule((last,), str)}

    def swap(self, values: Values, name: str, rng: Random) -> int:
        digits = len(str(values[name]))
        return rng.randrange(0 if digits == 1 else 10 ** (digits - 1), min(10**digits, self.p))

    def isomorphic(self, values: Values, rng: Random) -> Values:
        by = rng.randrange(1, len(values))
        numbers = list(values.values())
        return dict(zip(values, numbers[by:] + numbers[:by], strict=True))

    def canonical(self, values: Values) -> str:
        return f"{sorted(values.values())} mod {self.p}"

    def guess(self, values: Values, rng: Random) -> str:
        return str(rng.randrange(self.p))

    def chance(self, values: Values) -> Fraction:
        return Fraction(1, self.p)
