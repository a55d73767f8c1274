"""The code of a lock, from guesses and their feedback."""

from __future__ import annotations

from collections import Counter
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
    """The only code that agrees with the feedback to every guess, as in Mastermind.

    Feedback is how many digits are right and in place, and how many more are in the code but misplaced. A variant renames
    the digits, permutes their places and lists the guesses in another order. The graph has the codes left after each guess.

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
        left = frozenset(codes)
        while len(left) > 1:
            guess = rng.choice(codes)
            groups = _groups(guess, symbols)
            feedback = next(each for each, group in groups.items() if code in group)
            after = left & groups[feedback]
            if len(after) == 1 and sum(len(left & group) == 1 for group in groups.values()) < 2:
                continue
            if after != left:
                left = after
                hints[guess] = feedback
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
        numbers = range(1, _hints(values) + 1)
        return [f"feedback{i}" for i in numbers if len(_single(values[f"guess{i}"], _others(values, i))) > 1]

    def swap(self, values: Values, name: str, rng: Random) -> str | None:
        """Another guess or feedback that leaves one code."""
        if name in ("digits", "last"):
            return None
        number = int(name.lstrip("guesfdback"))
        left = _others(values, number)
        if name.startswith("feedback"):
            return rng.choice(_single(values[f"guess{number}"], left))
        some = rng.sample(_codes(values["digits"], values["last"] + 1), 8)
        return next((each for each in some if values[f"feedback{number}"] in _single(each, left)), None)

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
        return tuple(f"left: {len(computed[name])}" for name in computed if name.startswith("left"))


def _hints(values: Values) -> int:
    return (len(values) - 2) // 2


@cache
def _codes(length: int, symbols: int) -> list[str]:
    return ["".join(map(str, digits)) for digits in product(range(symbols), repeat=length)]


def _feedback(guess: str, code: str) -> str:
    placed, rest = sum(map(eq, guess, code)), code
    for digit in guess:
        rest = rest.replace(digit, "", 1)
    return f"{placed} placed, {len(code) - len(rest) - placed} misplaced"


@cache
def _groups(guess: str, symbols: int) -> dict[str, frozenset[str]]:
    """All codes by the feedback that they give to a guess."""
    groups: dict[str, list[str]] = {}
    for code in _codes(len(guess), symbols):
        groups.setdefault(_feedback(guess, code), []).append(code)
    return {feedback: frozenset(group) for feedback, group in groups.items()}


def _others(values: Values, number: int) -> list[str]:
    """The codes that are left without one of the guesses."""
    groups = [
        _groups(values[f"guess{i}"], values["last"] + 1)[values[f"feedback{i}"]]
        for i in range(1, _hints(values) + 1)
        if i != number
    ]
    return sorted(frozenset.intersection(*groups)) if groups else _codes(values["digits"], values["last"] + 1)


def _single(guess: str, left: Sequence[str]) -> list[str]:
    """The feedbacks that one of the codes gives."""
    return [feedback for feedback, n in Counter(_feedback(guess, code) for code in left).items() if n == 1]


def _left(digits: int, last: int, guess: str, feedback: str, before: Sequence[str] | None = None) -> tuple[str, ...]:
    """The codes, of those before, that give this feedback to a guess."""
    group = _groups(guess, last + 1).get(feedback, frozenset())
    return tuple(sorted(group)) if before is None else tuple(code for code in before if code in group)
