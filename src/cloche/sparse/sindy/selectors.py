"""Other selectors of terms: sequential thresholding, relaxed regression, greedy pursuit, and stability selection."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cloche.errors import SettingConflict, SettingRange
from cloche.sparse.sindy.library import Array
from cloche.sparse.sindy.regression import Regression
from cloche.sparse.sindy.selection import Criterion, ForwardBackward, Normal, Selector, solve

_SHARES = np.geomspace(1e-4, 1, 40)  # of the largest scaled coefficient: thresholds tried if none is given


class _ThresholdPath(Selector):
    """Base of selectors that propose supports for many thresholds, of which the criterion chooses one."""

    strictness: float = 2.0

    def large_support(self, problem: Regression) -> Array:
        return ForwardBackward().large_support(problem)

    def _best(self, problem: Regression, path: list[list[int]]) -> list[int]:
        return Criterion.of(problem, self.large_support(problem).tolist(), self.strictness).least(path)


@dataclass(frozen=True)
class STLSQ(_ThresholdPath):
    """Sequentially thresholded least squares (Brunton, Proctor and Kutz 2016).

    Removes coefficients below `threshold` and fits the rest again, until none is removed. The threshold is in the units of
    the coefficients; None tries many, with terms scaled to norm one, and takes the support with the best criterion.

    >>> import numpy as np
    >>> from cloche.sparse.sindy import SINDy, STLSQ
    >>> t = np.linspace(0, 4, 200)
    >>> x = np.exp(-t) + 0.01 * np.random.default_rng(0).standard_normal(200)
    >>> SINDy(selector=STLSQ(), resamples=0).fit(x, t).equations(2)
    ["x' = -1 x"]
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
        support = kept  # strictly smaller each time, so the loop ends
    return support.tolist()


@dataclass(frozen=True)
class SR3(_ThresholdPath):
    """Sparse relaxed regularised regression (Zheng et al. 2019; Champion et al. 2020), on moments with terms scaled to norm
    one.

    Minimises chi^2(w) / 2 + penalty |u|_0 + |w - u|^2 / (2 relaxation) alternately in w and u, for at most `iterations`
    iterations. The support is that of u. `penalty` None tries many and takes the support with the best criterion.

    >>> import numpy as np
    >>> from cloche.sparse.sindy import SINDy, SR3
    >>> t = np.linspace(0, 4, 200)
    >>> x = np.exp(-t) + 0.01 * np.random.default_rng(0).standard_normal(200)
    >>> SINDy(selector=SR3(), resamples=0).fit(x, t).equations(2)
    ["x' = -1 x"]
    """

    penalty: float | None = None
    relaxation: float = 1.0
    iterations: int = 200
    strictness: float = 2.0

    def __post_init__(self) -> None:
        if (self.penalty is not None and not self.penalty > 0) or not self.relaxation > 0 or self.iterations < 1:
            raise SettingRange("SR3 needs a penalty and a relaxation above zero, and at least one iteration.")

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
        for _ in range(self.iterations):
            w = inverse @ (moment + u / self.relaxation)
            new = np.where(np.abs(w) > least, w, 0.0)
            if np.abs(new - u).max() <= 1e-10 * max(float(np.abs(u).max()), np.finfo(float).tiny):
                break
            u = new
        return np.flatnonzero(u).tolist()


@dataclass(frozen=True)
class Greedy(_ThresholdPath):
    """Orthogonal matching pursuit (`cloche.sparse.pursuit.OMP`) over the weighted rows, one term at a time.

    Up to `max_terms` terms; the criterion decides where to stop. A chosen term is never removed, so one that stands in for
    two others stays once they are added: ForwardBackward reconsiders.

    >>> import numpy as np
    >>> from cloche.sparse.sindy import Greedy, SINDy
    >>> t = np.linspace(0, 4, 200)
    >>> x = np.exp(-t) + 0.01 * np.random.default_rng(0).standard_normal(200)
    >>> SINDy(selector=Greedy(), resamples=0).fit(x, t).equations(2)
    ["x' = -1 x"]
    """

    max_terms: int = 16
    strictness: float = 2.0

    def choose(self, problem: Regression) -> list[int]:
        import torch

        from cloche.sparse.dictionary import Dictionary
        from cloche.sparse.pursuit import OMP

        terms = problem.rows @ problem.terms
        norms = np.linalg.norm(terms, axis=0)
        nonzero = np.flatnonzero(norms > 0)
        if not len(nonzero):
            return []
        atoms = Dictionary(torch.from_numpy(np.ascontiguousarray((terms[:, nonzero] / norms[nonzero]).T)))
        code = OMP(k=min(self.max_terms, len(nonzero), len(problem.target))).encode(
            torch.from_numpy(problem.target[None]), atoms
        )
        order = nonzero[code.indices[0, : int(code.active[0])].numpy()].tolist()
        return sorted(self._best(problem, [sorted(order[: k + 1]) for k in range(len(order))]))


@dataclass(frozen=True)
class Stable(Selector):
    """The terms that `selector` chooses in at least `share` of `resamples` bootstrap resamples of the windows.

    Stability selection (Meinshausen and Buhlmann 2010), as in ensemble SINDy (Fasel et al. 2022).

    >>> import numpy as np
    >>> from cloche.sparse.sindy import SINDy, Stable
    >>> t = np.linspace(0, 4, 200)
    >>> x = np.exp(-t) + 0.01 * np.random.default_rng(0).standard_normal(200)
    >>> SINDy(selector=Stable(resamples=10), resamples=0).fit(x, t).equations(2)
    ["x' = -1 x"]
    """

    selector: Selector = field(default_factory=ForwardBackward)
    resamples: int = 40
    share: float = 0.6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 2 or not 0 < self.share <= 1:
            raise SettingConflict("Stable needs at least two resamples, and a share above 0 and at most 1.")

    def large_support(self, problem: Regression) -> Array:
        return self.selector.large_support(problem)

    def choose(self, problem: Regression) -> list[int]:
        counts = np.zeros(problem.design.shape[1])
        for weights in draws(len(problem.target), self.resamples, self.seed):
            counts[self.selector.choose(problem.reweighted(weights))] += 1
        return np.flatnonzero(counts >= self.share * self.resamples).tolist()


def draws(rows: int, resamples: int, seed: int) -> Array:
    """[resamples, rows] how often each row is drawn with replacement."""
    return np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), resamples).astype(float)
