"""Winning moves of Nim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import xor
from random import Random
from string import ascii_uppercase

from cloche.tasks.graph import Rule
from cloche.tasks.task import Task, Values

LARGEST = 12  # objects in a heap


@dataclass(frozen=True)
class Nim(Task):
    """A move that wins Nim with `level + 1` heaps, where whoever takes the last object wins; every winning move is right.

    The position is lost for the player to move if the nim-sum of the heaps, their bitwise exclusive or, is 0 (Bouton 1901).
    A variant has the heaps in another order. The graph has the nim-sum.

    >>> from cloche.tasks import Nim
    >>> item = Nim().example(level=2, seed=0)
    >>> item.prompt, item.answer
    ('Nim with heaps A 4, B 4, C 12. To win, take', '12 from C')
    """

    gap = " "

    def draw(self, level: int, rng: Random) -> Values:
        while True:
            heaps = [rng.randint(1, LARGEST) for _ in range(level + 1)]
            if reduce(xor, heaps):
                return dict(zip(ascii_uppercase, heaps, strict=False))

    def template(self, values: Values) -> str:
        heaps = ", ".join(f"{name} {{{name}}}" for name in values)
        return f"Nim with heaps {heaps}. To win, take"

    def rules(self, values: Values) -> Mapping[str, Rule]:
        names = tuple(values)
        return {
            "nim_sum": Rule(names, lambda *heaps: reduce(xor, heaps)),
            "answer": Rule(
                ("nim_sum", *names), lambda total, *heaps: _winning(dict(zip(names, heaps, strict=True)), total)[0]
            ),
        }

    def swap(self, values: Values, name: str, rng: Random) -> int | None:
        least, most = (1, 9) if values[name] < 10 else (10, LARGEST)
        heap = rng.randint(least, most)
        return heap if reduce(xor, {**values, name: heap}.values()) else None

    def isomorphic(self, values: Values, rng: Random) -> Values:
        """The heaps in another order."""
        moved = rng.sample(range(1, len(values)), len(values) - 1)
        heaps = list(values.values())
        return dict(zip(values, [*(heaps[i] for i in moved), heaps[0]], strict=True))

    def canonical(self, values: Values) -> str:
        return " ".join(map(str, sorted(values.values())))

    def choices(self, values: Values) -> Sequence[str]:
        return [f"{n} from {name}" for name, heap in values.items() for n in range(1, heap + 1)]

    def accepts(self, values: Values, answer: str) -> bool:
        return answer in _winning(values, reduce(xor, values.values()))


def _winning(heaps: Mapping[str, int], total: int) -> list[str]:
    """The moves after which the nim-sum is 0; "nothing" where it is 0 before."""
    return [f"{n - (n ^ total)} from {name}" for name, n in heaps.items() if n ^ total < n] or ["nothing"]
