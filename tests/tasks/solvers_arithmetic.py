from __future__ import annotations

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
