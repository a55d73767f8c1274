"""The Game of 24."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import combinations, product
from math import factorial
from operator import add, mul, sub, truediv
from random import Random
from typing import Any

from cloche.tasks.graph import Rule
from cloche.tasks.task import Task, Values

TARGET = Fraction(24)
SIZES = {1: (3, 13, 4, 99), 2: (4, 9, 80, 999), 3: (4, 9, 24, 79), 4: (4, 9, 8, 23), 5: (4, 9, 1, 7)}  # see draw
LONGEST = 100  # characters of an answer that is parsed
OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: add,
    ast.Sub: sub,
    ast.Mult: mul,
    ast.Div: truediv,
}
PAIR = (None, None)
SHAPES: dict[int, tuple[Any, ...]] = {  # of brackets around so many numbers
    3: ((PAIR, None), (None, PAIR)),
    4: ((PAIR, PAIR), ((PAIR, None), None), ((None, PAIR), None), (None, (PAIR, None)), (None, (None, PAIR))),
}
Numbers = tuple[int, ...]


@dataclass(frozen=True)
class TwentyFour(Task):
    """An expression that makes 24 of three or four small numbers, each used once, with + - * / and brackets.

    Levels differ in how many numbers there are and in how many expressions make 24; they have 23 to 188 problems. Every
    expression that is exactly 24 in rational arithmetic is right. A variant has the numbers in another order.

    >>> from cloche.tasks import TwentyFour
    >>> task = TwentyFour()
    >>> item = task.item({"a": 3, "b": 3, "c": 8, "d": 8})
    >>> item.prompt, item.answer, task.verify(item, "8 / (3 - 8/3)").strict, task.verify(item, "3 * 8").strict
    ('Make 24 of the numbers 3, 3, 8, 8, each used once:', '8/(3-(8/3))', 1.0, 0.0)
    """

    gap = " "

    def draw(self, level: int, rng: Random) -> Values:
        n, largest, least, most = SIZES[level]  # how many numbers, up to which, and in how many ways they make 24
        while True:
            numbers = [rng.randint(1, largest) for _ in range(n)]
            if least <= _solved(tuple(sorted(numbers)))[0] <= most:
                return dict(zip("abcd", numbers, strict=False))

    def template(self, values: Values) -> str:
        return f"Make 24 of the numbers {', '.join(f'{{{name}}}' for name in values)}, each used once:"

    def rules(self, values: Values) -> Mapping[str, Rule]:
        return {"answer": Rule(tuple(values), lambda *numbers: _solved(tuple(sorted(numbers)))[1])}

    def swap(self, values: Values, name: str, rng: Random) -> int | None:
        number = rng.randint(1, 9) if values[name] < 10 else rng.randint(10, 13)
        return number if _solved(tuple(sorted({**values, name: number}.values())))[0] else None

    def isomorphic(self, values: Values, rng: Random) -> Values:
        """The numbers in another order."""
        moved = rng.sample(list(values)[1:], len(values) - 1)
        return dict(zip(values, [*(values[name] for name in moved), values["a"]], strict=True))

    def canonical(self, values: Values) -> str:
        return " ".join(map(str, sorted(values.values())))

    def guess(self, values: Values, rng: Random) -> str:
        """An order of the numbers, operators and brackets, all with equal probability."""
        n = len(values)
        return _bracketed(rng.choice(SHAPES[n]), iter(rng.sample(list(values.values()), n)), rng)[1:-1]

    def chance(self, values: Values) -> Fraction:
        n = len(values)
        return Fraction(_solved(tuple(sorted(values.values())))[0], factorial(n) * len(SHAPES[n]) * 4 ** (n - 1))

    def accepts(self, values: Values, answer: str) -> bool:
        found = _evaluated(answer)
        return found is not None and found[0] == TARGET and sorted(found[1]) == sorted(values.values())


def _bracketed(shape: Any, numbers: Iterator[int], rng: Random) -> str:
    if shape is None:
        return str(next(numbers))
    left = _bracketed(shape[0], numbers, rng)
    return f"({left}{rng.choice('+-*/')}{_bracketed(shape[1], numbers, rng)})"


def _evaluated(text: str) -> tuple[Fraction, list[int]] | None:
    """The value of an expression and the numbers in it; None if it is not one."""
    if len(text) > LONGEST or not re.fullmatch(r"[0-9+\-*/() ]+", text):
        return None
    numbers: list[int] = []

    def value(node: ast.expr) -> Fraction:
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            numbers.append(node.value)
            return Fraction(node.value)
        raise ValueError("neither a number nor one of + - * /")

    try:
        return value(ast.parse(text.strip(), mode="eval").body), numbers
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _splits(numbers: Numbers) -> Iterator[tuple[Numbers, Numbers]]:
    """All ways to give the numbers to the left and the right of an operator."""
    n = len(numbers)
    for k in range(1, n):
        for left in combinations(range(n), k):
            yield tuple(numbers[i] for i in left), tuple(numbers[i] for i in range(n) if i not in left)


@cache
def _values(numbers: Numbers) -> dict[Fraction, tuple[int, str]]:
    """Every value that can be made of all the numbers: in how many ways, and one of them."""
    if len(numbers) == 1:
        return {Fraction(numbers[0]): (1, str(numbers[0]))}
    found: dict[Fraction, tuple[int, str]] = {}
    for left, right in _splits(numbers):
        for (x, (i, a)), (y, (j, b)) in product(_values(left).items(), _values(right).items()):
            for sign, operate in zip("+-*/", OPERATORS.values(), strict=True):
                if sign != "/" or y:
                    ways, first = found.get(operate(x, y), (0, f"({a}{sign}{b})"))
                    found[operate(x, y)] = ways + i * j, first
    return found


@cache
def _solved(numbers: Numbers) -> tuple[int, str]:
    """In how many ways sorted numbers make 24, and the first; what the longer side must be is looked up."""
    ways, first = 0, ""
    for left, right in _splits(numbers):
        if len(left) > len(right):
            continue
        others = _values(right)
        for x, (i, a) in _values(left).items():
            needed = [(TARGET - x, f"{a}+%s"), (x - TARGET, f"{a}-%s")]
            needed += [(TARGET / x, f"{a}*%s"), (x / TARGET, f"{a}/%s")] if x else []
            if len(left) < len(right):  # the split the other way round is not looked at
                needed += [(TARGET - x, f"%s+{a}"), (TARGET + x, f"%s-{a}")]
                needed += [(TARGET / x, f"%s*{a}"), (TARGET * x, f"%s/{a}")] if x else []
            for y, form in needed:
                if y in others:
                    ways, first = ways + i * others[y][0], first or form % others[y][1]
    return ways, first or "nothing"
