"""Which terms an equation has: searches over supports, on the moments of a regression."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Protocol

import numpy as np

from cloche.sparse.sindy.library import Array
from cloche.sparse.sindy.regression import Regression

_NEIGHBOURS = 40  # rows: windows a radius apart no longer overlap much
_COLLINEAR = 1e-11  # of a term's own moment: what the others leave of it when it says nothing new


def solve(gram: Array, moment: Array, support: Array) -> Array:
    """[terms] the best amounts of the terms in `support` (indices), zero elsewhere."""
    w = np.zeros(len(moment))
    if len(support):
        scale = np.sqrt(np.maximum(np.diag(gram)[support], np.finfo(float).tiny))
        inner = gram[np.ix_(support, support)] / np.outer(scale, scale)
        w[support] = np.linalg.lstsq(inner, moment[support] / scale, rcond=1e-12)[0] / scale
    return w


def _inverse(gram: Array) -> Array:
    """Of moments with ones on the diagonal; the ridge keeps terms that say the same from dividing by nothing."""
    return np.linalg.inv(gram + _COLLINEAR * np.eye(len(gram)))


@dataclass(frozen=True)
class Normal:
    """Moments with each term scaled to one."""

    gram: Array
    moment: Array

    @classmethod
    def of(cls, problem: Regression) -> Normal:
        scale = 1 / np.sqrt(np.maximum(np.diag(problem.gram), np.finfo(float).tiny))
        return cls(problem.gram * np.outer(scale, scale), problem.moment * scale)

    def gains(self, support: list[int]) -> tuple[Array, float]:
        """([terms] by how much chi squared falls when each term joins the support, by how much the support lowers it)."""
        if not support:
            return self.moment**2, 0.0
        S = np.array(support)
        inverse = _inverse(self.gram[np.ix_(S, S)])
        w = inverse @ self.moment[S]
        others = self.gram[:, S]
        projected = others @ inverse
        left = 1 - (projected * others).sum(1)
        gain = np.where(left > _COLLINEAR, (self.moment - others @ w) ** 2 / np.maximum(left, _COLLINEAR), 0.0)
        gain[S] = 0
        return gain, float(w @ self.moment[S])

    def losses(self, support: list[int]) -> Array:
        """[support] by how much chi squared rises when each of its terms leaves."""
        S = np.array(support)
        inverse = _inverse(self.gram[np.ix_(S, S)])
        rise, own = (inverse @ self.moment[S]) ** 2, np.diag(inverse)
        return np.where(
            own > 0, rise / np.where(own > 0, own, 1.0), 0.0
        )  # not positive: nothing is known of it, so it may go


class Selector(Protocol):
    """Chooses terms for one equation."""

    def rich(self, problem: Regression) -> Array:
        """Indices of the terms of a model that is rather too large: what rows are weighted by before anything is known."""
        ...

    def choose(self, problem: Regression) -> list[int]:
        """Indices, rising, of the terms the equation has."""
        ...


@dataclass(frozen=True)
class ForwardBackward:
    """Of the best supports of each size, as far as single moves find them, the one of the best information criterion.

    From none upwards: the term that helps most joins (orthogonal matching pursuit, on the moments).
    Then terms are exchanged one for one while that helps; up to `most` terms. From all downwards: the term that is missed least
    leaves. `strictness` is the gamma of the extended criterion: 0 is Schwarz's, 1 pays for the number of terms on offer too.
    """

    most: int = 16
    strictness: float = 2.0

    def rich(self, problem: Regression) -> Array:
        return np.array(self._up(problem, Normal.of(problem))[-1], dtype=int)

    def choose(self, problem: Regression) -> list[int]:
        normal = Normal.of(problem)
        up = self._up(problem, normal)
        return least_criterion(problem, up + self._down(normal), up[-1], self.strictness)

    def _up(self, problem: Regression, normal: Normal) -> list[list[int]]:
        support: list[int] = []
        found: list[list[int]] = [[]]
        for _ in range(min(self.most, len(normal.moment), max(1, len(problem.target) // 3))):
            gain, _ = normal.gains(support)
            best = int(gain.argmax())
            if gain[best] <= 0:
                break
            support = _exchanged(normal, [*support, best])
            found.append(sorted(support))
        return found

    def _down(self, normal: Normal) -> list[list[int]]:
        support = list(range(len(normal.moment)))
        found = []
        while support:
            found.append(list(support))
            support.pop(int(normal.losses(support).argmin()))
        return found


def _exchanged(normal: Normal, support: list[int]) -> list[int]:
    """One-for-one exchanges while they help, each term's turn coming round at most a few times."""
    _, now = normal.gains(support)
    for _ in range(4):
        before = now
        for out in list(support):
            rest = [j for j in support if j != out]
            gain, base = normal.gains(rest)
            new = int(gain.argmax())
            if new != out and base + gain[new] > now * (1 + 1e-9):
                support, now = [*rest, new], base + gain[new]
        if now == before:
            break
    return support


def least_criterion(problem: Regression, path: list[list[int]], rich: list[int], strictness: float) -> list[int]:
    """The support in `path` with the least extended Bayesian information criterion (Chen and Chen 2008).

    chi^2 / dispersion + size (ln rows + 2 strictness ln terms).
    """
    rows, terms = problem.rows.shape
    price = log(max(rows, 2)) + 2 * strictness * log(max(terms, 2))
    dispersion = dispersion_of(problem, rich)
    normal = Normal.of(problem)
    supports = [s for s in path if len(s) <= max(1, rows // 3)]
    scores = [len(s) * price - normal.gains(s)[1] / dispersion for s in supports]
    return supports[int(np.argmin(scores))]


def dispersion_of(problem: Regression, rich: list[int]) -> float:
    """How much more than the measurement noise the rows vary about the rich model; at least one.

    Where they do, something moves the states that neither noise nor library explains. It acts through windows that overlap, so
    what it leaves in the rows is correlated, and their excess counts as often as a row has neighbours that repeat it: the sum
    of the residual's autocorrelation, with Bartlett's weights. Without this a random walk has equations of motion.
    """
    w = solve(problem.gram, problem.moment, np.array(rich, dtype=int))
    rest = problem.rows @ w - problem.target
    excess = float(rest @ rest) / max(1, len(rest) - len(rich)) - 1
    if excess <= 0:
        return 1.0
    lags = np.arange(1, max(2, min(len(rest) // 4, _NEIGHBOURS)))
    shared = np.array([rest[lag:] @ rest[:-lag] for lag in lags]) / float(rest @ rest)
    return 1 + excess * max(1.0, 1 + 2 * float(((1 - lags / (lags[-1] + 1)) * shared).sum()))
