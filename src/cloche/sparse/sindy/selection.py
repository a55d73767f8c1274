"""Chooses the terms of an equation: searches over supports, using the moments of a regression."""

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
_COLLINEAR = 1e-12  # of a term's norm: a term with less left by the others is dependent on them
_MEANINGLESS = 1e-3  # of chi squared: smaller differences are ignored


def solve(problem: Regression, support: Array | Sequence[int]) -> Array:
    """[terms] the least-squares coefficients of the terms in `support` (indices), zero elsewhere."""
    w = np.zeros(problem.design.shape[1])
    chosen = np.array(support, dtype=int)
    if len(chosen):
        columns = problem.design[:, chosen]
        size = np.maximum(np.linalg.norm(columns, axis=0), np.finfo(float).tiny)
        w[chosen] = np.linalg.lstsq(columns / size, problem.aim, rcond=_COLLINEAR)[0] / size
    return w


def _orthonormal(columns: Array) -> Array:
    """An orthonormal basis of the columns' span by Householder reflections; three times as fast as numpy's for few columns."""
    factored, reflectors, _, _ = dgeqrf(columns)
    return dorgqr(factored[:, : len(columns)], reflectors)[0]


@dataclass(frozen=True)
class Normal:
    """The least-squares problem of a regression, with each term scaled to norm one: design [known, terms], aim [known]."""

    design: Array
    aim: Array

    @classmethod
    def of(cls, problem: Regression) -> Normal:
        size = np.maximum(np.linalg.norm(problem.design, axis=0), np.finfo(float).tiny)
        return cls(problem.design / size, problem.aim)

    def gains(self, support: Sequence[int]) -> tuple[Array, float]:
        """([terms] reduction of chi squared if each term is added to the support, reduction of chi squared by the support).

        Computed from the design's columns, not their products: columns with a large offset agree in more digits than a
        square has.
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
        """Yields the supports from all terms down to one, each time without the term whose removal costs least.

        Of terms that cost nothing the last goes first, so that of equivalent forms the library's earlier terms remain. `B`
        is updated so that B B^T is the inverse of the support's moments.
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
    """Chooses the terms of one equation.

    >>> import numpy as np
    >>> from cloche.sparse.sindy import Selector, SINDy, STLSQ
    >>> isinstance(STLSQ(threshold=0.1), Selector)
    True
    >>> t = np.linspace(0, 4, 200)
    >>> SINDy(selector=STLSQ(threshold=0.1), resamples=0).fit(np.exp(-t), t).equations(2)
    ["x' = -1 x"]
    """

    @abstractmethod
    def large_support(self, problem: Regression) -> Array:
        """Indices of the terms of a model that is larger than needed, by which rows are weighted before terms are chosen."""

    @abstractmethod
    def choose(self, problem: Regression) -> list[int]:
        """Indices of the terms of the equation, in increasing order."""


@dataclass(frozen=True)
class ForwardBackward(Selector):
    """Best support under an information criterion, among the best of each size that single moves find.

    Forward from no terms: adds the term that helps most (orthogonal matching pursuit on the moments), then exchanges terms
    one for one while that helps; up to `max_terms` terms. Backward from all terms: removes the term whose removal costs
    least. `strictness` is the gamma of the extended criterion: 0 is Schwarz's criterion, 1 also penalises the number of
    candidate terms.

    >>> import numpy as np
    >>> from cloche.sparse.sindy import ForwardBackward, Polynomials, SINDy
    >>> t = np.linspace(0, 6, 300)
    >>> x = 1 / (1 + 9 * np.exp(-t)) + 0.01 * np.random.default_rng(0).standard_normal(300)
    >>> SINDy(Polynomials(3), selector=ForwardBackward(max_terms=4), resamples=0).fit(x, t).equations(2)
    ["x' = 1 x - 1 x^2"]
    """

    max_terms: int = 16
    strictness: float = 2.0

    def large_support(self, problem: Regression) -> Array:
        return np.array(self._up(problem, Normal.of(problem))[-1], dtype=int)

    def choose(self, problem: Regression) -> list[int]:
        normal = Normal.of(problem)
        up = self._up(problem, normal)
        criterion = Criterion.of(problem, up[-1], self.strictness)
        return _fewer_by_exchange(normal, criterion, criterion.least(up + list(normal.fewer())))

    def _up(self, problem: Regression, normal: Normal) -> list[list[int]]:
        support: list[int] = []
        found: list[list[int]] = [[]]
        for _ in range(min(self.max_terms, normal.design.shape[1], max(1, len(problem.target) // 3))):
            gain, _ = normal.gains(support)
            best = int(gain.argmax())
            if gain[best] <= 0:
                break
            support = _exchanged(normal, [*support, best])
            found.append(sorted(support))
        return found


def _exchanged(normal: Normal, support: list[int]) -> list[int]:
    """The support after one-for-one exchanges while they help, with at most a few passes over its terms."""
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
    """The support after exchanges of two of its terms for one, while the criterion decreases.

    If terms are dependent (fractions that sum to one), forms with many terms equal one with few, which single exchanges do
    not find.
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
    def of(cls, problem: Regression, large_support: Sequence[int], strictness: float) -> Criterion:
        """`large_support` is larger than needed; the dispersion of the rows is measured around its model."""
        rows, terms = len(problem.target), problem.design.shape[1]
        price = log(max(rows, 2)) + 2 * strictness * log(max(terms, 2))
        return cls(problem, price, dispersion_of(problem, large_support))

    def of_gain(self, size: int, gain: float) -> float:
        """Criterion of a support that reduces chi squared by `gain`, relative to no terms."""
        return size * self.price - gain / self.dispersion

    def least(self, path: list[list[int]]) -> list[int]:
        """The support in `path` with the smallest criterion."""
        normal, most = Normal.of(self.problem), max(1, len(self.problem.target) // 3)
        total = float(self.problem.aim @ self.problem.aim)
        best: list[int] = []
        score = 0.0
        for support in sorted((s for s in path if 0 < len(s) <= most), key=len):
            if self.of_gain(len(support), total) >= score:
                break  # no support of this size can do better
            now = self.of_gain(len(support), normal.gains(support)[1])
            if now < score:
                best, score = support, now
        return best


def dispersion_of(problem: Regression, large_support: Sequence[int]) -> float:
    """Variance of the rows around the large model relative to the measurement noise; at least one.

    If it is above one, something drives the states that neither noise nor library explains. It acts through overlapping
    windows, so the residuals of the rows are correlated, and the excess is multiplied by the number of rows that repeat
    each other: the sum of the residual's autocorrelation, with Bartlett's weights. Without this a random walk has equations
    of motion.
    """
    w = solve(problem, large_support)
    known = problem.known  # in other directions the model's coefficients are noise, for which the rows are not weighted
    rest = problem.rows[:, :known] @ (problem.terms[:known] @ w) - problem.target
    excess = float(rest @ rest) / max(1, len(rest) - len(large_support)) - 1
    if excess <= 0:
        return 1.0
    lags = np.arange(1, max(2, min(len(rest) // 4, _NEIGHBOURS)))
    shared = np.array([rest[lag:] @ rest[:-lag] for lag in lags]) / float(rest @ rest)
    return 1 + excess * max(1.0, 1 + 2 * float(((1 - lags / (lags[-1] + 1)) * shared).sum()))
