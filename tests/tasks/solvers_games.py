from __future__ import annotations

import re
from functools import cache
from itertools import product

from tests.tasks.solvers import Spend


@cache
def nim_lost(heaps: tuple[int, ...]) -> bool:
    return not any(nim_lost(nim_after(heaps, i, n)) for i, heap in enumerate(heaps) for n in range(1, heap + 1))


def nim_after(heaps: tuple[int, ...], i: int, n: int) -> tuple[int, ...]:
    return tuple(sorted(h for h in (*heaps[:i], heaps[i] - n, *heaps[i + 1 :]) if h))


def solve_Nim(prompt: str, spend: Spend) -> set[str]:
    """Plays every move, and keeps those after which the other player has lost whatever he does."""
    named = re.findall(r"([A-F]) (\d+)", prompt)
    heaps, found = tuple(int(n) for _, n in named), set()
    for i, (name, _) in enumerate(named):
        for n in range(1, heaps[i] + 1):
            spend()
            if nim_lost(nim_after(heaps, i, n)):
                found.add(f"{n} from {name}")
    return found


@cache
def played(cells: str, player: str) -> tuple[int, frozenset[int], int]:
    """Value for the player, the best squares, and the positions looked at."""
    rows = [cells[i : i + 3] for i in (0, 3, 6)]
    columns = [cells[i::3] for i in range(3)]
    if {"XXX", "OOO"} & {*rows, *columns, cells[::4], cells[2:7:2]}:
        return -1, frozenset(), 1
    values, looked = {}, 1
    for i in range(9):
        if cells[i] == ".":
            value, _, more = played(cells[:i] + player + cells[i + 1 :], "XO".replace(player, ""))
            values[i + 1] = -value
            looked += more
    best = max(values.values(), default=0)
    return best, frozenset(i for i in values if values[i] == best), looked


def solve_TicTacToe(prompt: str, spend: Spend) -> set[str]:
    """Plays every game to its end."""
    board, question = prompt.removeprefix("Tic-tac-toe: ").split(". The best move of ")
    _, best, looked = played(re.sub("[ /]", "", board), question[0])
    for _ in range(looked):
        spend()
    return {str(square) for square in best}


@cache
def made_24(numbers: tuple[int, ...]) -> tuple[frozenset[str], int]:
    """Joins any two of the terms until one is left: every expression of 24, and the steps to the first."""
    found: set[str] = set()
    steps = first = 0

    def join(terms: list[tuple[float, str]]) -> None:
        nonlocal steps, first
        for i, (x, a) in enumerate(terms):
            for k, (y, b) in enumerate(terms):
                if i == k:
                    continue
                rest = [term for j, term in enumerate(terms) if j not in (i, k)]
                results = [(x + y, "+"), (x - y, "-"), (x * y, "*")] + ([(x / y, "/")] if abs(y) > 1e-9 else [])
                for value, sign in results:
                    steps += 1
                    if rest:
                        join([*rest, (value, f"({a}{sign}{b})")])
                    elif abs(value - 24) < 1e-9:
                        found.add(f"{a}{sign}{b}")
                        first = first or steps

    join([(float(n), str(n)) for n in numbers])
    return frozenset(found), first


def solve_TwentyFour(prompt: str, spend: Spend) -> set[str]:
    found, steps = made_24(tuple(sorted(int(n) for n in re.findall(r"\d+", prompt.removeprefix("Make 24")))))
    for _ in range(steps):
        spend()
    return set(found)


def solve_CombinationLock(prompt: str, spend: Spend) -> set[str]:
    """Tries every code against the hints, one after another, until one of them fails."""
    digits, last = map(int, re.findall(r"code of (\d) digits from 0 to (\d)", prompt)[0])
    hints = re.findall(r"(\d+): (\d) placed, (\d) misplaced", prompt)
    found = set()
    for code in map("".join, product("0123456789"[: last + 1], repeat=digits)):
        for guess, placed, misplaced in hints:
            spend()
            here = [i for i in range(digits) if guess[i] == code[i]]
            pool = [code[i] for i in range(digits) if i not in here]
            near = 0
            for i in range(digits):
                if i not in here and guess[i] in pool:
                    pool.remove(guess[i])
                    near += 1
            if (str(len(here)), str(near)) != (placed, misplaced):
                break
        else:
            found.add(code)
    return found
