"""Which terms an equation has: searches over supports, on the moments of a regression."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import log

import numpy as np
from scipy.linalg.lapack import dgeqrf, dorgqr

from cloche.part import Part
from cloche.sparse.sindy.library import Array
from cloche.sparse.sindy.regression import Regression

_NEIGHBOURS = 40  # rows: windows a radius apart no longer overlap much
_COLLINEAR = 1e-12  # of a term: what the others leave of it when it says nothing new
_MEANINGLESS = 1e-3  # of chi squared: terms missed by less are not worth comparing


def solve(problem: Regression, support: Array | Sequence[int]) -> Array:
    """[terms] the best amounts of the terms in `support` (indices), zero elsewhere."""
    w = np.zeros(problem.design.shape[1])
    chosen = np.array(support, dtype=int)
    if len(chosen):
        columns = problem.design[:, chosen]
        size = np.maximum(np.linalg.norm(columns, axis=0), np.finfo(float).tiny)
        w[chosen] = np.linalg.lstsq(columns / size, problem.aim, rcond=_COLLINEAR)[0] / size
    return w


def _orthonormal(columns: Array) -> Array:
    """An orthonormal basis of what the columns span: Householder's, and thrice as fast for few columns as numpy's."""
    factored, reflectors, _, _ = dgeqrf(columns)
    return dorgqr(factored[:, : len(columns)], reflectors)[0]


@dataclass(frozen=True)
class Normal:
    """The least squares of a regression with each term scaled to one: design [told, terms], aim [told]."""

    design: Array
    aim: Array

    @classmethod
    def of(cls, problem: Regression) -> Normal:
        size = np.maximum(np.linalg.norm(problem.design, axis=0), np.finfo(float).tiny)
        return cls(problem.design / size, problem.aim)

    def gains(self, support: Sequence[int]) -> tuple[Array, float]:
        """([terms] by how much chi squared falls when each term joins the support, by how much the support lowers it).

        On the design's columns and not on their products: those of a far offset agree in more digits than a square has.
        """
        if not len(support):
            return (self.design.T @ self.aim) ** 2, 0.0
        chosen = np.array(support)
        Q = _orthonormal(self.design[:, chosen])
        known = Q.T @ self.aim
        left = self.design - Q @ (Q.T @ self.design)
        size = (left**2).sum(0)
        reach = left.T @ (self.aim - Q @ known)
        gain = np.where(size > _COLLINEAR**2, reach**2 / np.maximum(size, _COLLINEAR**2), 0.0)
        gain[chosen] = 0
        return gain, float(known @ known)

    def fewer(self) -> Iterator[list[int]]:
        """The supports from all terms down to one, each time without the term that is missed least.

        Of terms that are not missed at all the last goes first: of forms that are equal the library's earlier terms stay.
        `B` is kept so that B B^T is the inverse of the support's moments.
        """
        count = self.design.shape[1]
        left, sizes, right = np.linalg.svd(self.design, full_matrices=True)
        inverse = np.full(count, 1 / (_COLLINEAR * max(float(sizes[0]), np.finfo(float).tiny)))
        inverse[: len(sizes)] = np.minimum(1 / np.maximum(sizes, np.finfo(float).tiny), inverse[: len(sizes)])
        known = np.zeros(count)
        known[: len(sizes)] = (left.T @ self.aim)[: len(sizes)]
        B = right.T * inverse
        w, support = B @ known, np.arange(count)
        while len(support):
            yield support.tolist()
            size = (B**2).sum(1)
            missed = w**2 / np.maximum(size, np.finfo(float).tiny)
            idle = np.flatnonzero(missed < _MEANINGLESS)
            out = int(idle[-1]) if len(idle) else int(missed.argmin())
            shares = (B @ B[out]) / max(float(size[out]), np.finfo(float).tiny)
            w, B = np.delete(w - shares * w[out], out), np.delete(B - np.outer(shares, B[out]), out, 0)
            support = np.delete(support, out)


class Selector(Part, ABC):
    """Chooses terms for one equation."""

    @abstractmethod
    def rich(self, problem: Regression) -> Array:
        """Indices of the terms of a model that is rather too large: what rows are weighted by before anything is known."""

    @abstractmethod
    def choose(self, problem: Regression) -> list[int]:
        """Indices, rising, of the terms the equation has."""


@dataclass(frozen=True)
class ForwardBackward(Selector):
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
        criterion = Criterion.of(problem, up[-1], self.strictness)
        return _fewer_by_exchange(normal, criterion, criterion.least(up + list(normal.fewer())))

    def _up(self, problem: Regression, normal: Normal) -> list[list[int]]:
        support: list[int] = []
        found: list[list[int]] = [[]]
        for _ in range(min(self.most, normal.design.shape[1], max(1, len(problem.target) // 3))):
            gain, _ = normal.gains(support)
            best = int(gain.argmax())
            if gain[best] <= 0:
                break
            support = _exchanged(normal, [*support, best])
            found.append(sorted(support))
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


def _fewer_by_exchange(normal: Normal, criterion: Criterion, support: list[int]) -> list[int]:
    """The support after exchanges of two of its terms for one, while the criterion falls.

    Where terms are dependent (amounts that sum to one), forms of many terms equal one of few, which no single exchange finds.
    """
    score = criterion.of_gain(len(support), normal.gains(support)[1])
    while len(support) > 1:
        best = support
        for pair in combinations(support, 2):
            rest = [j for j in support if j not in pair]
            gain, base = normal.gains(rest)
            new = int(gain.argmax())
            now = criterion.of_gain(len(rest) + 1, base + float(gain[new]))
            if now < score - _MEANINGLESS:
                best, score = sorted([*rest, new]), now
        if best == support:
            break
        support = best
    return support


@dataclass(frozen=True)
class Criterion:
    """The extended Bayesian information criterion (Chen and Chen 2008).

    chi^2 / dispersion + size (ln rows + 2 strictness ln terms).
    """

    problem: Regression
    price: float
    dispersion: float

    @classmethod
    def of(cls, problem: Regression, rich: Sequence[int], strictness: float) -> Criterion:
        """`rich` is a support rather too large, about which the rows' dispersion is measured."""
        rows, terms = len(problem.target), problem.design.shape[1]
        price = log(max(rows, 2)) + 2 * strictness * log(max(terms, 2))
        return cls(problem, price, dispersion_of(problem, rich))

    def of_gain(self, size: int, gain: float) -> float:
        """Of a support by how much it lowers chi squared, beside that of no terms at all."""
        return size * self.price - gain / self.dispersion

    def least(self, path: list[list[int]]) -> list[int]:
        """The support in `path` for which it is least."""
        normal, most = Normal.of(self.problem), max(1, len(self.problem.target) // 3)
        total = float(self.problem.aim @ self.problem.aim)
        best: list[int] = []
        score = 0.0
        for support in sorted((s for s in path if 0 < len(s) <= most), key=len):
            if self.of_gain(len(support), total) >= score:
                break  # no support this large can do better
            now = self.of_gain(len(support), normal.gains(support)[1])
            if now < score:
                best, score = support, now
        return best


def dispersion_of(problem: Regression, rich: Sequence[int]) -> float:
    """How much more than the measurement noise the rows vary about the rich model; at least one.

    Where they do, something moves the states that neither noise nor library explains. It acts through windows that overlap, so
    what it leaves in the rows is correlated, and their excess counts as often as a row has neighbours that repeat it: the sum
    of the residual's autocorrelation, with Bartlett's weights. Without this a random walk has equations of motion.
    """
    w = solve(problem, rich)
    told = (
        problem.told
    )  # the rich model's amounts are noise in other directions, and the rows are not weighted for them
    rest = problem.rows[:, :told] @ (problem.terms[:told] @ w) - problem.target
    excess = float(rest @ rest) / max(1, len(rest) - len(rich)) - 1
    if excess <= 0:
        return 1.0
    lags = np.arange(1, max(2, min(len(rest) // 4, _NEIGHBOURS)))
    shared = np.array([rest[lag:] @ rest[:-lag] for lag in lags]) / float(rest @ rest)
    return 1 + excess * max(1.0, 1 + 2 * float(((1 - lags / (lags[-1] + 1)) * shared).sum()))
