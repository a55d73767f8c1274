"""When a run diverged, by a definition that is fixed beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

FACTOR = 1.5  # of the median, above which a loss must stay
STAYS = 20  # steps that it must stay there
WINDOW = 50  # losses at most that the median is taken of
LEAST = 20  # losses that there must be before


def first_divergence(losses: Sequence[float | None]) -> int | None:
    """The first step at which a run diverged, counted from 1; None if it did not.

    That is the first step whose loss, and those of the 19 steps after it, are above 1.5 times the median of the 50 losses
    before it (of fewer, but at least 20, early in a run). A loss that is not finite is above everything, and steps which
    it kept from being trained count as above. Of a negative median, half of its size is added.

    >>> from cloche.diagnose import first_divergence
    >>> calm = [3.0] * 30
    >>> first_divergence(calm + [5.0] * 20), first_divergence(calm + [5.0] * 19 + calm)
    (31, None)
    >>> first_divergence(calm + [5.0, float("nan")])
    31
    """
    values = [x if x is not None and math.isfinite(x) else math.inf for x in losses]
    if values and values[-1] == math.inf:  # training stopped there
        values += [math.inf] * (STAYS - 1)
    for begin in range(LEAST, len(values) - STAYS + 1):
        usual = median(values[max(0, begin - WINDOW) : begin])
        limit = usual + (FACTOR - 1) * abs(usual)
        if min(values[begin : begin + STAYS]) > limit:
            return begin + 1
    return None
