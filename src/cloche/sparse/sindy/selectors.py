"""Other ways to choose terms: sequential thresholds, relaxed regression, plain greed, and the vote of an ensemble."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cloche.errors import SettingConflict, SettingRange
from cloche.sparse.sindy.library import Array
from cloche.sparse.sindy.regression import Regression
from cloche.sparse.sindy.selection import Criterion, ForwardBackward, Normal, Selector, solve

_SHARES = np.geomspace(1e-4, 1, 40)  # of the largest scaled amount: thresholds that are tried when none is given


class _Swept(Selector):
    """What the selectors here share: supports for many thresholds, of which the criterion takes one."""

    strictness: float = 2.0

    def rich(self, problem: Regression) -> Array:
        return ForwardBackward().rich(problem)

    def _best(self, problem: Regression, path: list[list[int]]) -> list[int]:
        return Criterion.of(problem, self.rich(problem).tolist(), self.strictness).least(path)


@dataclass(frozen=True)
class STLSQ(_Swept):
    """Sequentially thresholded least squares (Brunton, Proctor and Kutz 2016).

    Amounts below `threshold` go and the rest are fitted again, until nothing goes. A threshold is in the amounts' own units;
    None tries many, in units where the terms are of one size, and takes the support of the best criterion.
    """

    threshold: float | None = None
    strictness: float = 2.0

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold < np.inf:
            raise SettingRange(f"The threshold is {self.threshold:g}, but must be zero or more.")

    def choose(self, problem: Regression) -> list[int]:
        size = np.maximum(np.linalg.norm(problem.design, axis=0), np.finfo(float).tiny)
        everything = np.arange(len(size))
        if self.threshold is not None:
            return _thresholded(problem, everything, np.full(len(size), self.threshold))
        largest = np.abs(solve(problem, everything) * size).max()
        return self._best(problem, [_thresholded(problem, everything, share * largest / size) for share in _SHARES])


def _thresholded(problem: Regression, support: Array, least: Array) -> list[int]:
    while len(support):
        w = solve(problem, support)
        kept = support[np.abs(w[support]) >= least[support]]
        if len(kept) == len(support):
            break
        support = kept  # strictly smaller each time, so this ends
    return support.tolist()


@dataclass(frozen=True)
class SR3(_Swept):
    """Sparse relaxed regularised regression (Zheng et al. 2019; Champion et al. 2020), over moments with terms of size one.

    Minimises chi^2(w) / 2 + penalty |u|_0 + |w - u|^2 / (2 relaxation) by turns in w and u, at most `turns` of them. The
    support is that of u. `penalty` None tries many and takes the support of the best criterion.
    """

    penalty: float | None = None
    relaxation: float = 1.0
    turns: int = 200
    strictness: float = 2.0

    def __post_init__(self) -> None:
        if (self.penalty is not None and not self.penalty > 0) or not self.relaxation > 0 or self.turns < 1:
            raise SettingRange("SR3 needs a penalty and a relaxation above zero, and at least one turn.")

    def choose(self, problem: Regression) -> list[int]:
        normal = Normal.of(problem)
        moments, moment = normal.design.T @ normal.design, normal.design.T @ normal.aim
        inverse = np.linalg.inv(moments + np.eye(len(moment)) / self.relaxation)
        start = np.linalg.lstsq(normal.design, normal.aim, rcond=1e-12)[0]
        if self.penalty is not None:
            return self._relaxed(moment, start, inverse, np.sqrt(2 * self.penalty * self.relaxation))
        top = float(np.abs(start).max())
        return self._best(problem, [self._relaxed(moment, start, inverse, share * top) for share in _SHARES])

    def _relaxed(self, moment: Array, start: Array, inverse: Array, least: float) -> list[int]:
        u = start
        for _ in range(self.turns):
            w = inverse @ (moment + u / self.relaxation)
            new = np.where(np.abs(w) > least, w, 0.0)
            if np.abs(new - u).max() <= 1e-10 * max(float(np.abs(u).max()), np.finfo(float).tiny):
                break
            u = new
        return np.flatnonzero(u).tolist()


@dataclass(frozen=True)
class Greedy(_Swept):
    """Orthogonal matching pursuit (`cloche.sparse.pursuit.OMP`) over the weighted rows, a term after the other.

    Up to `most` terms; the criterion says where to stop. Nothing that was chosen ever leaves, so a term that stands in for two
    others stays once they are there: ForwardBackward reconsiders.
    """

    most: int = 16
    strictness: float = 2.0

    def choose(self, problem: Regression) -> list[int]:
        import torch

        from cloche.sparse.dictionary import Dictionary
        from cloche.sparse.pursuit import OMP

        terms = problem.rows @ problem.terms
        norms = np.linalg.norm(terms, axis=0)
        told = np.flatnonzero(norms > 0)
        if not len(told):
            return []
        atoms = Dictionary(torch.from_numpy(np.ascontiguousarray((terms[:, told] / norms[told]).T)))
        code = OMP(k=min(self.most, len(told), len(problem.target))).encode(
            torch.from_numpy(problem.target[None]), atoms
        )
        order = told[code.indices[0, : int(code.active[0])].numpy()].tolist()
        return sorted(self._best(problem, [sorted(order[: k + 1]) for k in range(len(order))]))


@dataclass(frozen=True)
class Stable(Selector):
    """The terms that `selector` chooses in at least `share` of `resamples` draws of the windows, with repeats.

    Stability selection (Meinshausen and Buhlmann 2010), as in ensemble SINDy (Fasel et al. 2022).
    """

    selector: Selector = field(default_factory=ForwardBackward)
    resamples: int = 40
    share: float = 0.6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 2 or not 0 < self.share <= 1:
            raise SettingConflict("Stability needs at least two resamples, and a share above 0 and up to 1.")

    def rich(self, problem: Regression) -> Array:
        return self.selector.rich(problem)

    def choose(self, problem: Regression) -> list[int]:
        counts = np.zeros(problem.design.shape[1])
        for weights in draws(len(problem.target), self.resamples, self.seed):
            counts[self.selector.choose(problem.again(weights))] += 1
        return np.flatnonzero(counts >= self.share * self.resamples).tolist()


def draws(rows: int, resamples: int, seed: int) -> Array:
    """[resamples, rows] how often each row is drawn, with repeats."""
    return np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), resamples).astype(float)
