"""Paired differences between settings: an interval, and what it says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from cloche.drawing import Interval, student_quantile
from cloche.errors import ArgumentInvalid

POWER = 0.8  # of the comparisons with the named number of seeds find a difference as large as the one measured
MOST_SEEDS = 1000  # above it no number is named


def verdict(differences: Sequence[float]) -> str:
    """What differences of a loss, one per seed, say: "identical", "better" or "worse" if Student's 95% interval leaves out
    zero, else "within noise" and about how many seeds would tell.

    >>> from cloche.diagnose import verdict
    >>> verdict([0.0, 0.0]), verdict([-0.10, -0.11, -0.12]), verdict([0.02, -0.01, 0.03])
    ('identical', 'better', 'within noise: about 22 seeds would tell')
    """
    if not differences:
        return "not compared"
    if not any(differences):
        return "identical"
    if len(differences) < 2:
        return "one seed: no interval"
    found = Interval(tuple(differences))
    if abs(found.mean) > found.half:
        return "better" if found.mean < 0 else "worse"
    needed = seeds_needed(differences)
    return "within noise: " + (
        f"about {needed:,} seeds would tell" if needed else f"more than {MOST_SEEDS:,} seeds would be needed"
    )


def seeds_needed(differences: Sequence[float]) -> int | None:
    """The fewest seeds with which a paired t-test at 5% finds a mean difference of this size in 80% of comparisons, if it and
    its spread are as measured; None above 1,000.

    The usual approximation: (t(97.5%) + t(80%)) standard errors, with the quantiles of that number of seeds. Raises
    ClocheError for fewer than two differences.

    >>> from cloche.diagnose import seeds_needed
    >>> seeds_needed([0.02, -0.01, 0.03]), seeds_needed([0.01, -0.01])
    (22, None)
    """
    if len(differences) < 2:
        raise ArgumentInvalid("The spread over seeds needs two or more differences; give more seeds.")
    mean, spread = abs(fmean(differences)), stdev(differences)
    low, high = len(differences), MOST_SEEDS
    if not _tells(high, mean, spread):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _tells(middle, mean, spread) else (middle + 1, high)
    return high


def _tells(seeds: int, mean: float, spread: float) -> bool:
    quantiles = student_quantile(0.975, seeds - 1) + student_quantile(POWER, seeds - 1)
    return quantiles * spread / math.sqrt(seeds) <= mean
