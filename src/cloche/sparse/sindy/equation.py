"""One state's equation: alternates between weighting its rows and choosing its terms, then tests whether noise explains the
residual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cloche.sparse.sindy.library import Array
from cloche.sparse.sindy.regression import Noise, Regression, Rows, regression
from cloche.sparse.sindy.selection import Selector, solve
from cloche.sparse.sindy.selectors import draws

_ROUNDS = 5  # of weighting and choosing; most equations converge after two
_INTERVALS = 200  # resamples for the intervals: they need no search, so more of them are affordable
_DEVIATIONS = 6.0  # standard deviations of chi squared: a larger residual has another cause than noise
_EXCESS = 1.5  # times the noise variance: smaller excesses are within the uncertainty of the noise


@dataclass(frozen=True, eq=False)
class Equation:
    """Coefficients [terms] of one state's equation, on the rows weighted by them.

    `explained` is the share of the weighted derivative that the equation explains. `misfit` is the variance of the residual
    over that of the noise: about one if the equation is true and the noise is as assumed.
    """

    problem: Regression
    coefficients: Array
    explained: float
    misfit: float

    @property
    def support(self) -> list[int]:
        return np.flatnonzero(self.coefficients).tolist()

    @property
    def adequate(self) -> bool:
        """Whether noise alone can explain the residual (a chi-squared test that only gross misfits fail)."""
        freedom = max(1, len(self.problem.target) - len(self.support))
        return self.misfit <= max(_EXCESS, 1 + _DEVIATIONS * float(np.sqrt(2 / freedom)))


def equation(rows: Sequence[Rows], d: int, noise: Noise, terms: Array, selector: Selector) -> Equation:
    """The equation of state d that the selector finds, in the terms given by the rows' basis times `terms` [basis, terms]."""
    problem = regression(rows, d, None, noise, terms)
    w = solve(problem, selector.large_support(problem))
    support: list[int] | None = None
    for _ in range(_ROUNDS):
        problem = regression(rows, d, w, noise, terms)
        found = selector.choose(problem)
        w = solve(problem, found)
        if found == support:
            break
        support = found
    return evaluated(problem, w)


def evaluated(problem: Regression, w: Array) -> Equation:
    """The equation with coefficients w, or with none if w fits worse than zero, which means that noise was fitted."""
    total, left = float(problem.target @ problem.target), problem.misfit(w)
    if left >= total:
        w, left = np.zeros_like(w), total
    freedom = max(1, len(problem.target) - int(np.count_nonzero(w)))
    return Equation(problem, w, 1 - left / max(total, np.finfo(float).tiny), left / freedom)


def resampled(found: Equation, selector: Selector, resamples: int, seed: int) -> tuple[Array, Array]:
    """(intervals [terms, 2], stability [terms]) by bootstrapping the rows: once weighted, they are nearly independent."""
    count = len(found.coefficients)
    if resamples < 1:
        blank = np.where(found.coefficients != 0, np.nan, 0.0)
        return np.stack([blank, blank], 1), np.full(count, np.nan)
    drawn, times = np.zeros((max(_INTERVALS, resamples), count)), np.zeros(count)
    for i, weights in enumerate(draws(len(found.problem.target), len(drawn), seed)):
        resample = found.problem.reweighted(weights)
        drawn[i] = solve(resample, found.support)
        if i < resamples:
            times[selector.choose(resample)] += 1
    return np.quantile(drawn, [0.025, 0.975], axis=0).T, times / resamples
