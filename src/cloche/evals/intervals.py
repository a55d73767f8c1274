"""Intervals around shares and ratios."""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot, sqrt

import numpy as np

__all__ = ["bootstrap_ratio", "newcombe", "wilson"]

Z = 1.959964  # of a two-sided 95% interval
RESAMPLES = 2_000


def wilson(right: float, n: int) -> tuple[float, float]:
    """The 95% interval of a share (Wilson 1927), which stays within 0 and 1 also near them; all of it for no items.

    >>> from cloche.evals import wilson
    >>> [round(end, 3) for end in wilson(8, 10)]
    [0.49, 0.943]
    """
    if not n:
        return 0.0, 1.0
    share, square = right / n, Z * Z
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = Z * sqrt(share * (1 - share) / n + square / (4 * n * n)) / (1 + square / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def newcombe(first: tuple[float, int], second: tuple[float, int]) -> tuple[float, float]:
    """The 95% interval of the difference of two independent shares, each given as (right, n) (Newcombe 1998, method 10).

    >>> from cloche.evals import newcombe
    >>> [round(end, 3) for end in newcombe((56, 70), (48, 80))]
    [0.052, 0.334]
    """
    (low_a, high_a), (low_b, high_b) = wilson(*first), wilson(*second)
    a, b = (right / n if n else 0.5 for right, n in (first, second))
    return a - b - hypot(a - low_a, high_b - b), a - b + hypot(high_a - a, b - low_b)


def bootstrap_ratio(above: Sequence[float], below: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The 95% interval of sum(above) / sum(below) over resamples of their pairs, such as nats and bytes per window.

    >>> from cloche.evals import bootstrap_ratio
    >>> low, high = bootstrap_ratio([1.0, 2.0, 3.0, 2.0], [1.0, 1.0, 1.0, 1.0])
    >>> low < 2 < high
    True
    """
    rng = np.random.default_rng(seed)
    a, b = np.asarray(above, float), np.asarray(below, float)
    # One resample at a time: all at once are gigabytes for the windows of a long text.
    drawn = (rng.integers(len(a), size=len(a)) for _ in range(RESAMPLES))
    low, high = np.quantile([a[one].sum() / b[one].sum() for one in drawn], (0.025, 0.975))
    return float(low), float(high)
