"""The code of a lock, from guesses and their feedback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import product
from operator import eq
from random import Random
from typing import Any

from cloche.tasks.graph import Rule
from cloche.tasks.task import Task, Values

SIZES = {1: (2, 6), 2: (2, 9), 3: (3, 5), 4: (3, 6), 5: (4, 5)}  # level: digits of the code, symbols


@dataclass(frozen=True)
class CombinationLock(Task):
    """The only code that agrees with the feedback to all guesses, as in Mastermind: how many digits are placed, and how many
    more are there but misplaced. A variant renames the digits, moves their places and lists the guesses in another order.

    >>> from cloche.tasks import CombinationLock
    >>> item = CombinationLock().example(level=2, seed=0)
    >>> item.prompt[-29:], item.answer, item.steps[-2:]
    ('ced, 1 misplaced. The code is', '54', ('left: 2', 'left: 1'))
    """

    gap = " "

    def draw(self, level: int, rng: Random) -> Values:
        """Guesses at random until one of them tells the code and another code from all that are left."""
        length, symbols = SIZES[level]
        codes = _codes(length, symbols)
        code = rng.choice(codes)
        hints: dict[str, str] = {}
        left = (1 << len(codes)) - 1
        while left.bit_count() > 1:
            guess = rng.choice(codes)
            groups = [left & group for group in _groups(guess, symbols).values()]
            after = left & _groups(guess, symbols)[_feedback(guess, code)]
            if after.bit_count() == 1 and sum(group.bit_count() == 1 for group in groups) < 2:
                continue
            if after != left:
                left = after
                hints[guess] = _feedback(guess, code)
        values: dict[str, Any] = {"digits": length, "last": symbols - 1}
        for i, (guess, feedback) in enumerate(rng.sample(list(hints.items()), len(hints)), 1):
            values |= {f"guess{i}": guess, f"feedback{i}": feedback}
        return values

    def template(self, values: Values) -> str:
        hints = "".join(f"{{guess{i}}}: {{feedback{i}}}. " for i in range(1, _hints(values) + 1))
        return f"A lock has a code of {{digits}} digits from 0 to {{last}}. {hints}The code is"

    def rules(self, values: Values) -> Mapping[str, Rule]:
        """`left1`, `left2`, ... are the codes that are left after each guess."""
        rules: dict[str, Rule] = {}
        for i in range(1, _hints(values) + 1):
            before = (f"left{i - 1}",) if i > 1 else ()
            rules[f"left{i}"] = Rule(("digits", "last", f"guess{i}", f"feedback{i}", *before), _left)
        return {**rules, "answer": Rule((f"left{len(rules)}",), lambda left: min(left, default="none"))}

    def contrasts(self, values: Values) -> Sequence[str]:
        return [name for name in values if name.startswith("feedback")]

    def swap(self, values: Values, name: str, rng: Random) -> str | None:
        """Another guess or feedback that leaves one code."""
        if name in ("digits", "last"):
            return None
        symbols, number = values["last"] + 1, int(name.lstrip("guesfdback"))
        left = (1 << symbols ** values["digits"]) - 1
        for i in range(1, _hints(values) + 1):
            if i != number:
                left &= _groups(values[f"guess{i}"], symbols)[values[f"feedback{i}"]]
        guess, feedback = values[f"guess{number}"], values[f"feedback{number}"]
        if name.startswith("guess"):
            some = rng.sample(_codes(values["digits"], symbols), 8)
            return next(
                (each for each in some if (_groups(each, symbols).get(feedback, 0) & left).bit_count() == 1), None
            )
        fits = [each for each, group in _groups(guess, symbols).items() if (group & left).bit_count() == 1]
        return rng.choice(fits)

    def isomorphic(self, values: Values, rng: Random) -> Values:
        renamed = rng.sample(range(values["last"] + 1), values["last"] + 1)
        places = rng.sample(range(values["digits"]), values["digits"])
        moved = {"digits": values["digits"], "last": values["last"]}
        for i, k in enumerate(rng.sample(range(1, _hints(values) + 1), _hints(values)), 1):
            guess = values[f"guess{k}"]
            moved[f"guess{i}"] = "".join(str(renamed[int(guess[place])]) for place in places)
            moved[f"feedback{i}"] = values[f"feedback{k}"]
        return moved

    def canonical(self, values: Values) -> str:
        hints = sorted(f"{values[f'guess{i}']} {values[f'feedback{i}']}" for i in range(1, _hints(values) + 1))
        return f"{values['digits']} {values['last']} {hints}"

    def guess(self, values: Values, rng: Random) -> str:
        return rng.choice(_codes(values["digits"], values["last"] + 1))

    def chance(self, values: Values) -> Fraction:
        return Fraction(1, (values["last"] + 1) ** values["digits"])

    def steps(self, values: Values) -> tuple[str, ...]:
        computed = self._graph(values).values
        return tuple(f"left: {len(computed[name])}" for name in self.rules(values) if name != "answer")


def _hints(values: Values) -> int:
    return sum(name.startswith("guess") for name in values)


@cache
def _codes(length: int, symbols: int) -> list[str]:
    return ["".join(map(str, digits)) for digits in product(range(symbols), repeat=length)]


def _feedback(guess: str, code: str) -> str:
    placed = sum(map(eq, guess, code))
    there = sum(min(guess.count(digit), code.count(digit)) for digit in set(guess))
    return f"{placed} placed, {there - placed} misplaced"


@cache
def _groups(guess: str, symbols: int) -> dict[str, int]:
    """The codes by the feedback that they give to a guess: bit i stands for code i."""
    groups: dict[tuple[int, int], int] = {}
    codes = _codes(len(guess), symbols)
    counts = _counts(len(guess), symbols)
    mine = counts[codes.index(guess)]
    for i, code in enumerate(codes):
        key = sum(map(eq, guess, code)), sum(map(min, mine, counts[i]))
        groups[key] = groups.get(key, 0) | 1 << i
    return {f"{placed} placed, {there - placed} misplaced": group for (placed, there), group in groups.items()}


@cache
def _counts(length: int, symbols: int) -> list[list[int]]:
    """How often each symbol is in each code."""
    return [[code.count(str(symbol)) for symbol in range(symbols)] for code in _codes(length, symbols)]


def _left(digits: int, last: int, guess: str, feedback: str, before: Sequence[str] | None = None) -> tuple[str, ...]:
    """The codes, of those before, that give this feedback to a guess."""
    group = _groups(guess, last + 1).get(feedback, 0)
    codes = _codes(digits, last + 1)
    if before is None:
        return tuple(code for i, code in enumerate(codes) if group >> i & 1)
    return tuple(code for code in before if _feedback(guess, code) == feedback)
