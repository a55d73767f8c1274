"""A stream of examples whose hidden rule switches; the answer follows the rule now in force."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
SIZES = {1: (1, 3), 2: (2, 6), 3: (2, 10), 4: (3, 15), 5: (4, 24)}  # level: rules, examples


@dataclass(frozen=True)
class RuleSwitch(Task):
    """The image of a digit under the rule that explains the most recent examples: copy, next, previous or mirror (9 - x).

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
            values: dict[str, Any] = {}
            for i in range(n):
                x = rng.randrange(10)
                rule = rules[sum(start <= i for start in starts) - 1]
                values |= {f"x{i}": x, f"y{i}": RULES[rule](x)}
            if _explaining(values) == [rules[-1]]:
                return {**values, "x": rng.randrange(10)}

    def template(self, values: Values) -> str:
        return "".join(f"{{x{i}}}>{{y{i}}} " for i in range(_examples(values))) + "{x}>"

    def rules(self, values: Values) -> Mapping[str, Rule]:
        seen = tuple(name for name in values if name != "x")
        return {
            "rule": Rule(seen, lambda *given: _explaining(dict(zip(seen, given, strict=True)))[0]),
            "answer": Rule(("rule", "x"), lambda rule, x: str(RULES[rule](x))),
        }

    def contrasts(self, values: Values) -> Sequence[str]:
        """The question, and the last example, which can switch the rule once more."""
        return ["x", f"y{_examples(values) - 1}"]

    def swap(self, values: Values, name: str, rng: Random) -> Any:
        changed = rng.randrange(10)
        return changed if len(_explaining({**values, name: changed})) == 1 else None

    def isomorphic(self, values: Values, rng: Random) -> Values:
        """Every digit x becomes 9 - x, and the examples of the rule in force come in another order."""
        n, run = _examples(values), _run(values, _explaining(values)[0])
        order = [*range(n - run), *rng.sample(range(n - run, n), run)]
        moved = {f"{side}{i}": 9 - values[f"{side}{k}"] for i, k in enumerate(order) for side in "xy"}
        return {**moved, "x": 9 - values["x"]}

    def canonical(self, values: Values) -> str:
        n, run = _examples(values), _run(values, _explaining(values)[0])
        pairs = [(values[f"x{i}"], values[f"y{i}"]) for i in range(n)]
        return f"{pairs[: n - run]} {sorted(pairs[n - run :])} {values['x']}"

    def choices(self, values: Values) -> Sequence[str]:
        return [str(x) for x in range(10)]

    def accepts(self, values: Values, answer: str) -> bool:
        return answer in {str(RULES[rule](values["x"])) for rule in _explaining(values)}


def _examples(values: Values) -> int:
    return sum(name.startswith("y") for name in values)


def _run(values: Values, rule: str) -> int:
    """How many of the last examples a rule explains."""
    n = _examples(values)
    failed = (k for k in range(n) if RULES[rule](values[f"x{n - 1 - k}"]) != values[f"y{n - 1 - k}"])
    return next(failed, n)


def _explaining(values: Values) -> list[str]:
    """The rules that explain the longest run of examples up to now: with one alone, the rule in force."""
    runs = {rule: _run(values, rule) for rule in RULES}
    return [rule for rule in RULES if runs[rule] == max(runs.values())]
