"""Intervals around shares and ratios."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np

__all__ = ["bootstrap_ratio", "wilson"]

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


def bootstrap_ratio(above: Sequence[float], below: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The 95% interval of sum(above) / sum(below) over resamples of their pairs, such as nats and bytes per window.

    >>> from cloche.evals import bootstrap_ratio
    >>> low, high = bootstrap_ratio([1.0, 2.0, 3.0, 2.0], [1.0, 1.0, 1.0, 1.0])
    >>> low < 2 < high
    True
    """
    rng = np.random.default_rng(seed)
    a, b = np.asarray(above, float), np.asarray(below, float)
    drawn = rng.integers(len(a), size=(RESAMPLES, len(a)))
    low, high = np.quantile(a[drawn].sum(1) / b[drawn].sum(1), (0.025, 0.975))
    return float(low), float(high)
