"""One state's equation: the turns of weighting its rows and choosing its terms, and whether the noise explains what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cloche.sparse.sindy.library import Array
from cloche.sparse.sindy.regression import Noise, Regression, Rows, regression
from cloche.sparse.sindy.selection import Selector, solve
from cloche.sparse.sindy.selectors import draws

_ROUNDS = 5  # of weighting and choosing; it mostly stands after two
_INTERVALS = 200  # resamples for the intervals: they need no search, so there may be more of them
_DEVIATIONS = 6.0  # of chi squared's own spread: a residual beyond has another cause than noise
_EXCESS = 1.5  # times the noise's variance: less is within what is known of the noise


@dataclass(frozen=True, eq=False)
class Equation:
    """`amounts` [terms] of one state's equation, on the rows weighted by them.

    `explained` is the share of the weighted derivative that they account for. `misfit` is the residual's variance over the
    noise's: about one where the equation is true and the noise as supposed.
    """

    problem: Regression
    amounts: Array
    explained: float
    misfit: float

    @property
    def support(self) -> list[int]:
        return np.flatnonzero(self.amounts).tolist()

    @property
    def adequate(self) -> bool:
        """Whether noise alone may have left the residual (a chi squared test that only gross misfits fail)."""
        freedom = max(1, len(self.problem.target) - len(self.support))
        return self.misfit <= max(_EXCESS, 1 + _DEVIATIONS * float(np.sqrt(2 / freedom)))


def equation(rows: Sequence[Rows], d: int, noise: Noise, terms: Array, selector: Selector) -> Equation:
    """The equation of state d that the selector finds, in the terms that `terms` [basis, terms] makes of the rows' basis."""
    problem = regression(rows, d, None, noise, terms)
    w = solve(problem, selector.rich(problem))
    support: list[int] | None = None
    for _ in range(_ROUNDS):
        problem = regression(rows, d, w, noise, terms)
        found = selector.choose(problem)
        w = solve(problem, found)
        if found == support:
            break
        support = found
    return weighed(problem, w)


def weighed(problem: Regression, w: Array) -> Equation:
    """The equation of the amounts w, or of none where they are worse than saying nothing: what was fitted is noise."""
    total, left = float(problem.target @ problem.target), problem.misfit(w)
    if left >= total:
        w, left = np.zeros_like(w), total
    freedom = max(1, len(problem.target) - int(np.count_nonzero(w)))
    return Equation(problem, w, 1 - left / max(total, np.finfo(float).tiny), left / freedom)


def resampled(found: Equation, selector: Selector, resamples: int, seed: int) -> tuple[Array, Array]:
    """(intervals [terms, 2], stability [terms]), from rows drawn again with repeats: weighted rows are nearly independent."""
    count = len(found.amounts)
    if resamples < 1:
        blank = np.where(found.amounts != 0, np.nan, 0.0)
        return np.stack([blank, blank], 1), np.full(count, np.nan)
    drawn, times = np.zeros((max(_INTERVALS, resamples), count)), np.zeros(count)
    for i, weights in enumerate(draws(len(found.problem.target), len(drawn), seed)):
        again = found.problem.again(weights)
        drawn[i] = solve(again, found.support)
        if i < resamples:
            times[selector.choose(again)] += 1
    return np.quantile(drawn, [0.025, 0.975], axis=0).T, times / resamples
