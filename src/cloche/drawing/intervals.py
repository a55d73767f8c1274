"""Student's t: the interval of a mean over a few runs or seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, stdev


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with Student's 95% confidence interval.

    >>> from cloche.drawing import Interval
    >>> print(Interval((0.8, 0.9, 1.0)))
    0.900 ± 0.248
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def half(self) -> float:
        """Half the width of the interval; infinite for a single value."""
        n = len(self.values)
        if n < 2:
            return math.inf
        return student_quantile(0.975, n - 1) * stdev(self.values) / n**0.5

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.half:.3f}"


@lru_cache(4096)
def student_quantile(share: float, freedom: int) -> float:
    """Quantile at `share` (above one half) of Student's t with integer degrees of freedom, whose distribution is a finite
    sum (Abramowitz and Stegun 26.7.3), inverted by halving the angle's range.

    >>> from cloche.drawing import student_quantile
    >>> round(student_quantile(0.975, 4), 3)
    2.776
    """
    low, high = 0.0, math.pi / 2
    while low < (angle := (low + high) / 2) < high:
        term = math.cos(angle) if freedom % 2 else 1.0
        terms = []
        for i in range(2 + freedom % 2, freedom + 1, 2):
            terms.append(term)
            term *= math.cos(angle) ** 2 * (i - 1) / i
        within = math.sin(angle) * math.fsum(terms)  # of -t..t
        if freedom % 2:
            within = 2 / math.pi * (angle + within)
        low, high = (angle, high) if within < 2 * share - 1 else (low, angle)
    return math.sqrt(freedom) * math.tan(high)
