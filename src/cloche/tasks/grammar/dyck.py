"""Closing brackets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random

from cloche.tasks.grading import words_right
from cloche.tasks.graph import Rule
from cloche.tasks.task import Task, Values

OPENING, CLOSING = "([{<", ")]}>"


@dataclass(frozen=True)
class Dyck(Task):
    """The closing brackets that balance a sequence with `level + 1` open ones.

    The sequence has `level + 2` closed pairs as well, and two kinds of brackets at level 1, three at level 2, four from
    level 3 on (a prefix of a word of the Dyck language). A variant has other kinds. The graph has the open
    brackets after each bracket: a stack as text, its length the depth.

    >>> from cloche.tasks import Dyck
    >>> item = Dyck().example(level=1, seed=0)
    >>> item.prompt, item.answer
    ('Balanced brackets: [ [ [ ] ( [ ] )', '] ]')
    """

    levels = range(1, 7)
    gap = " "

    def draw(self, level: int, rng: Random) -> Values:
        kinds = rng.sample(OPENING, min(level + 1, 4))
        opens, closes, stack, brackets = 2 * level + 3, level + 2, "", ""
        while opens or closes:
            if stack and rng.randrange(opens + closes) < closes:
                bracket, closes = _closing(stack[-1]), closes - 1
            else:
                bracket, opens = rng.choice(kinds), opens - 1
            stack, brackets = _after(stack, bracket), brackets + bracket
        if len(set(brackets) & set(OPENING)) == 1:
            return self.draw(level, rng)
        return {f"bracket_{i}": bracket for i, bracket in enumerate(brackets, 1)}

    def template(self, values: Values) -> str:
        return f"Balanced brackets: {' '.join(f'{{{name}}}' for name in values)}"

    def rules(self, values: Values) -> Mapping[str, Rule]:
        rules = {"stack_1": Rule(("bracket_1",), lambda bracket: _after("", bracket))}
        for i in range(2, len(values) + 1):
            rules[f"stack_{i}"] = Rule((f"stack_{i - 1}", f"bracket_{i}"), _after)
        last = f"stack_{len(values)}"
        return {**rules, "answer": Rule((last,), lambda stack: " ".join(map(_closing, reversed(stack))))}

    def contrasts(self, values: Values) -> Sequence[str]:
        open_: list[str] = []
        for name, bracket in values.items():
            if bracket in OPENING:
                open_.append(name)
            else:
                open_.pop()
        return open_

    def swap(self, values: Values, name: str, rng: Random) -> str | None:
        # A bracket that is closed has no other: the prompt would not be balanced whatever follows.
        used = sorted(set(values.values()) & set(OPENING) - {values[name]})
        return rng.choice(used) if name in self.contrasts(values) else None

    def isomorphic(self, values: Values, rng: Random) -> Values:
        by = rng.randrange(1, 4)
        return {
            name: next(kinds[(kinds.index(bracket) + by) % 4] for kinds in (OPENING, CLOSING) if bracket in kinds)
            for name, bracket in values.items()
        }

    def canonical(self, values: Values) -> str:
        seen = list(dict.fromkeys(bracket for bracket in values.values() if bracket in OPENING))
        return "".join(str(seen.index(bracket)) if bracket in OPENING else ")" for bracket in values.values())

    def guess(self, values: Values, rng: Random) -> str:
        kinds = sorted(set(values.values()) & set(OPENING))
        return " ".join(_closing(rng.choice(kinds)) for _ in self.contrasts(values))

    def chance(self, values: Values) -> Fraction:
        return Fraction(1, len(set(values.values()) & set(OPENING)) ** len(self.contrasts(values)))

    def partial(self, values: Values, answer: str) -> float:
        return words_right(answer, self.solution(values))


def _closing(bracket: str) -> str:
    return CLOSING[OPENING.index(bracket)]


def _after(stack: str, bracket: str) -> str:
    return stack + bracket if bracket in OPENING else stack[:-1]
