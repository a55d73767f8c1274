"""Variation of figures over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, stdev

from cloche.errors import CorpusEmpty
from cloche.sparse.dictionary import Dictionary
from cloche.sparse.truth.assignment import match


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with Student's 95% confidence interval.

    >>> from cloche.sparse.truth import Interval
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


def student_quantile(share: float, freedom: int) -> float:
    """Quantile at `share` (above one half) of Student's t with integer degrees of freedom, whose distribution is a finite
    sum (Abramowitz and Stegun 26.7.3), inverted by halving the angle's range.

    >>> from cloche.sparse.truth import student_quantile
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


def over_seeds(measure: Callable[[int], dict[str, float]], seeds: Iterable[int] = range(5)) -> dict[str, Interval]:
    """The figures of `measure(seed)`, each as an interval over the `seeds`.

    >>> from cloche.sparse.truth import over_seeds
    >>> over_seeds(lambda seed: {"fvu": 0.1 + 0.01 * seed}, range(3))["fvu"].mean
    0.11
    """
    rows = [measure(seed) for seed in seeds]
    if len(rows) < 2 or any(row.keys() != rows[0].keys() for row in rows):
        raise CorpusEmpty("An interval needs the same figures from two or more seeds: give more seeds.")
    return {name: Interval(tuple(row[name] for row in rows)) for name in rows[0]}


def stability(dictionaries: Sequence[Dictionary]) -> Interval:
    """Mean cosine of atoms matched one to one, over all pairs of dictionaries learned with different seeds.

    Pairs that share a dictionary are not independent, so the interval is over Tukey's pseudo-values: the contribution of
    each dictionary to the mean over all pairs. Two dictionaries are one pair, which has no interval.

    >>> from cloche.sparse import SyntheticFeatures
    >>> from cloche.sparse.truth import stability
    >>> atoms = [SyntheticFeatures(width=8, features=12, seed=seed).dictionary for seed in (0, 0, 1)]
    >>> stability(atoms[:2]).mean > 0.999 > stability(atoms[1:]).mean
    True
    """
    n = len(dictionaries)
    if n < 2:
        raise CorpusEmpty("Stability needs two or more dictionaries: learn with more seeds.")
    pairs = {(i, j): float(match(dictionaries[i], dictionaries[j])[1].mean()) for i, j in combinations(range(n), 2)}
    whole = fmean(pairs.values())
    if n == 2:
        return Interval((whole,))
    without = [fmean(cosine for pair, cosine in pairs.items() if i not in pair) for i in range(n)]
    return Interval(tuple(n * whole - (n - 1) * rest for rest in without))
