"""A stream of examples whose hidden rule switches; the answer follows the rule now in force."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from cloche.tasks.graph import Rule
from cloche.tasks.task import Task, Values

RULES: dict[str, Callable[[int], int]] = {
    "copy": lambda x: x,
    "next": lambda x: (x + 1) % 10,
    "previous": lambda x: (x - 1) % 10,
    "mirror": lambda x: 9 - x,
}
Example = tuple[int, int]
SIZES = {1: (1, 3), 2: (2, 6), 3: (2, 10), 4: (3, 15), 5: (4, 24)}  # level: rules, examples


@dataclass(frozen=True)
class RuleSwitch(Task):
    """A digit under the hidden rule that explains the most recent examples: copy, next, previous or mirror (9 - x).

    The rule switches up to three times along the examples. A variant writes 9 - x for every digit x, and the examples since
    the last switch in another order. The graph has the rule in force.

    >>> from cloche.tasks import RuleSwitch
    >>> item = RuleSwitch().example(level=2, seed=0)
    >>> item.prompt, item.answer
    ('8>7 0>9 7>6 3>2 8>8 0>0 8>', '8')
    """

    def draw(self, level: int, rng: Random) -> Values:
        segments, n = SIZES[level]
        while True:
            rules = [rng.choice(list(RULES))]
            while len(rules) < segments:
                rules.append(rng.choice([each for each in RULES if each != rules[-1]]))
            starts = [0, *sorted(rng.sample(range(2, n - 1), segments - 1))]
            xs = [rng.randrange(10) for _ in range(n)]
            ys = [RULES[rules[bisect(starts, i) - 1]](x) for i, x in enumerate(xs)]
            if _explaining(list(zip(xs, ys, strict=True))) == [rules[-1]]:
                return _named(xs, ys) | {"x": rng.randrange(10)}

    def template(self, values: Values) -> str:
        return "".join(f"{{x{i}}}>{{y{i}}} " for i in range(len(values) // 2)) + "{x}>"

    def rules(self, values: Values) -> Mapping[str, Rule]:
        return {
            "rule": Rule(tuple(values)[:-1], lambda *given: _explaining(_paired(given))[0]),
            "answer": Rule(("rule", "x"), lambda rule, x: str(RULES[rule](x))),
        }

    def contrasts(self, values: Values) -> Sequence[str]:
        """The question, and the last example, which can switch the rule once more."""
        return tuple(values)[-1:-3:-1]

    def swap(self, values: Values, name: str, rng: Random) -> Any:
        changed = rng.randrange(10)
        return changed if len(_explaining(_examples({**values, name: changed}))) == 1 else None

    def isomorphic(self, values: Values, rng: Random) -> Values:
        """Every digit x becomes 9 - x, and the examples of the rule in force come in another order."""
        before, run = _split_off(values)
        moved = [(9 - x, 9 - y) for x, y in (*before, *rng.sample(run, len(run)))]
        return _named(*zip(*moved, strict=True)) | {"x": 9 - values["x"]}

    def canonical(self, values: Values) -> str:
        before, run = _split_off(values)
        return f"{before} {sorted(run)} {values['x']}"

    def choices(self, values: Values) -> Sequence[str]:
        return [str(x) for x in range(10)]

    def accepts(self, values: Values, answer: str) -> bool:
        return answer in {str(RULES[rule](values["x"])) for rule in _explaining(_examples(values))}


def _named(xs: Iterable[int], ys: Iterable[int]) -> dict[str, Any]:
    return {
        f"{side}{i}": digit
        for i, pair in enumerate(zip(xs, ys, strict=True))
        for side, digit in zip("xy", pair, strict=True)
    }


def _paired(digits: Sequence[int]) -> list[Example]:
    return list(zip(digits[::2], digits[1::2], strict=True))


def _examples(values: Values) -> list[Example]:
    return _paired(list(values.values())[:-1])


def _run(examples: Sequence[Example], rule: str) -> int:
    """How many of the last examples a rule explains."""
    compute = RULES[rule]
    return next((k for k, (x, y) in enumerate(reversed(examples)) if compute(x) != y), len(examples))


def _explaining(examples: Sequence[Example]) -> list[str]:
    """The rules that explain the longest run of examples up to now: with one alone, the rule in force."""
    runs = {rule: _run(examples, rule) for rule in RULES}
    longest = max(runs.values())
    return [rule for rule, run in runs.items() if run == longest]


def _split_off(values: Values) -> tuple[list[Example], list[Example]]:
    """The examples before those of the rule in force, and those of that rule."""
    examples = _examples(values)
    start = len(examples) - _run(examples, _explaining(examples)[0])
    return examples[:start], examples[start:]
