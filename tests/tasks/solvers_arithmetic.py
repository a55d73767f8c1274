from __future__ import annotations

import re
from itertools import zip_longest

from tests.tasks.solvers import Spend


def solve_Add(prompt: str, spend: Spend) -> set[str]:
    """Adds column by column, counting up one at a time."""
    left, right = prompt.removesuffix("=").split("+")
    digits, carry = "", 0
    for a, b in zip_longest(reversed(left), reversed(right), fillvalue="0"):
        total = carry
        for digit in (a, b):
            for _ in range("0123456789".index(digit)):
                total += 1
                spend()
        spend()
        digits, carry = "0123456789"[total % 10] + digits, total // 10
    return {(str(carry) if carry else "") + digits}


def solve_Copy(prompt: str, spend: Spend) -> set[str]:
    """Reads letter by letter."""
    read = ""
    for letter in prompt[prompt.index(" ") + 1 : prompt.index("\n")]:
        read += letter
        spend()
    return {read}


def solve_Sort(prompt: str, spend: Spend) -> set[str]:
    """Exchanges neighbours in the wrong order until there are none."""
    found = re.findall(r"[0-9]+", prompt)
    for end in range(len(found), 1, -1):
        for i in range(end - 1):
            spend()
            if int(found[i]) > int(found[i + 1]):
                found[i], found[i + 1] = found[i + 1], found[i]
    return {" ".join(found)}


def solve_ModularAdd(prompt: str, spend: Spend) -> set[str]:
    """Walks round a circle, ten places at a stride and then one by one."""
    *numbers, p = map(int, re.findall(r"[0-9]+", prompt))
    circle, at = list(range(p)), 0
    for number in numbers:
        for stride in [10] * (number // 10) + [1] * (number % 10):
            at += stride
            while at >= len(circle):
                at -= len(circle)
            spend()
    return {str(circle[at])}


def solve_Parity(prompt: str, spend: Spend) -> set[str]:
    """Lays the letters asked for aside, and strikes them out two at a time."""
    found = re.fullmatch(r"Modulo 2, the number of times that (.) occurs in (.*) is", prompt)
    assert found
    aside = []
    for letter in found[2].split():
        spend()
        aside += [letter] if letter == found[1] else []
    while len(aside) > 1:
        del aside[:2]
    return {str(len(aside))}


def solve_GreaterThan(prompt: str, spend: Spend) -> set[str]:
    """Reads every clause, then tries every year."""
    started = {}
    for event, year in re.findall(r"[Tt]he (\w+) (?:\w+ )*?in the year ([0-9]{4})", prompt):
        started[event] = int(year)
        spend()
    whole = re.fullmatch(r"The \w+ lasted from the year ([0-9]{4}) to the year ([0-9]{2})", prompt)
    asked = re.search(r"The (\w+) lasted until the year ([0-9]{2})$", prompt)
    if whole:
        start, century = int(whole[1]), whole[2]
    else:
        assert asked
        start, century = started[asked[1]], asked[2]
    return {f"{end:02}" for end in range(100) if int(f"{century}{end:02}") > start}
