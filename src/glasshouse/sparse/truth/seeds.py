"""How much of a figure the seed decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, stdev

from scipy.optimize import linear_sum_assignment
from scipy.stats import t

from glasshouse.errors import GlasshouseError
from glasshouse.sparse.dictionary import Dictionary


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with Student's 95% confidence interval."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def half(self) -> float:
        """Half the width of the interval."""
        n = len(self.values)
        return float(t.ppf(0.975, n - 1)) * stdev(self.values) / n**0.5

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.half:.3f}"


def over_seeds(measure: Callable[[int], dict[str, float]], seeds: Iterable[int] = range(5)) -> dict[str, Interval]:
    """The figures of `measure(seed)`, each as an interval over the `seeds`."""
    rows = [measure(seed) for seed in seeds]
    if len(rows) < 2 or any(row.keys() != rows[0].keys() for row in rows):
        raise GlasshouseError("An interval needs the same figures from two seeds or more: give more seeds.")
    return {name: Interval(tuple(row[name] for row in rows)) for name in rows[0]}


def stability(dictionaries: Sequence[Dictionary]) -> float:
    """Mean cosine of atoms matched one to one, over all pairs of dictionaries learned from other seeds."""
    if len(dictionaries) < 2:
        raise GlasshouseError("Stability compares dictionaries, but there are fewer than two: learn from more seeds.")
    scores = []
    for one, other in combinations(dictionaries, 2):
        cosine = (one.unit().double() @ other.unit().double().T).cpu().numpy()
        scores.append(float(cosine[linear_sum_assignment(cosine, maximize=True)].mean()))
    return fmean(scores)
