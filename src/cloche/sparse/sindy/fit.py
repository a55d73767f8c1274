"""SINDy: sparse identification of nonlinear dynamics (Brunton, Proctor and Kutz 2016), with one default that stands noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cloche.errors import ClocheError
from cloche.sparse.sindy.library import Array, Library, Polynomials
from cloche.sparse.sindy.model import Model
from cloche.sparse.sindy.regression import Regression, Rows, regression
from cloche.sparse.sindy.selection import ForwardBackward, Selector, solve
from cloche.sparse.sindy.selectors import draws
from cloche.sparse.sindy.series import Series, noise_of, pace, read
from cloche.sparse.sindy.strong import Strong
from cloche.sparse.sindy.weak import Weak

_ROUNDS = 5  # of weighting and choosing; it mostly stands after two
_LEAST_NOISE = 1e-3  # of a state's spread: nothing is believed to be measured better, nor quadrature to be exacter
_INTERVALS = 200  # resamples for the intervals: they need no search, so there may be more of them
_MOST_TERMS = 2_000
_LOST = 0.5  # of a state's variance: more noise than that leaves no motion to find an equation for


@dataclass(frozen=True)
class SINDy:
    """Finds equations of motion x' = f(x, u) as a few terms of a library, from noisy series.

    library: the terms f may have; polynomials up to the second degree unless told.
    form: how the derivative is had: the weak form unless told.
    selector: how terms are chosen; by default the extended Bayesian information criterion along forward and backward paths.
    noise: the measurement noise's standard deviation, of each state or of all; estimated from the series when None.
    resamples: of the windows, for the intervals and the stability of each term; 0 leaves both out (NaN).
    """

    library: Library = field(default_factory=Polynomials)
    form: Weak | Strong = field(default_factory=Weak)
    selector: Selector = field(default_factory=ForwardBackward)
    noise: float | tuple[float, ...] | None = None
    resamples: int = 20
    seed: int = 0

    def fit(
        self,
        x: Any,
        t: Any,
        u: Any = None,
        states: Sequence[str] | None = None,
        inputs: Sequence[str] | None = None,
    ) -> Model:
        """The model of the series x [n, states] at the times t [n] (or a step), with known inputs u [n, inputs].

        Lists of arrays are several trajectories of one system. Times may be uneven. Raises ClocheError for series that are
        too short, never move, hold NaN, or whose windows are fewer than can tell terms apart.
        """
        series = read(x, t, u)
        names = _named(states, series[0].x.shape[1], "x"), _named(inputs, series[0].u.shape[1], "u")
        terms = tuple(self.library.names([*names[0], *names[1]]))
        _check_terms(terms)
        spread = np.concatenate([s.x for s in series]).std(0)
        noise = self._noise(series, spread)
        _check_motion(names[0], noise, spread)
        rows = self._rows(series, noise)
        found = [self._equation(rows, d, noise) for d in range(len(names[0]))]
        largest = float(np.abs(np.concatenate([s.x for s in series])).max())
        columns = [np.stack(part, 1) for part in zip(*found, strict=True)]
        coefficients, low, high, stability, explained = columns
        return Model(
            self.library, terms, *names, coefficients, np.stack([low, high], 2), stability, noise, explained[0], largest
        )

    def _noise(self, series: Sequence[Series], spread: Array) -> Array:
        if self.noise is None:
            return np.maximum(noise_of(series), _LEAST_NOISE * spread)
        given = np.broadcast_to(np.asarray(self.noise, dtype=float), spread.shape)
        if not np.isfinite(given).all() or (given < 0).any():
            raise ClocheError(f"noise is {self.noise}, but must be zero or more, in the units of the states.")
        return np.maximum(given, _LEAST_NOISE * spread)

    def _rows(self, series: Sequence[Series], noise: Array) -> list[Rows]:
        everything = np.concatenate([noise, np.zeros(series[0].u.shape[1])])
        radius = self.form.radius_for(series, pace(series, noise))
        rows = []
        for one in series:
            V, D = self.form.matrices(one, radius)
            if V.shape[0]:
                terms, slopes = self.library.unbiased(one.variables, everything), self.library.gradient(one.variables)
                if not (np.isfinite(terms).all() and np.isfinite(slopes).all()):
                    raise ClocheError("A term of the library is NaN or infinite on this series: leave that term out.")
                rows.append(Rows(V, D, V @ terms, -(D @ one.x), slopes, (D @ D.T).toarray()))
        count = sum(one.V.shape[0] for one in rows)
        if count < 4:
            raise ClocheError(
                f"Only {count} test functions of radius {radius:.4g} fit into the series: measure longer, or ask for a smaller "
                "radius."
            )
        return rows

    def _equation(self, rows: Sequence[Rows], d: int, noise: Array) -> tuple[Array, Array, Array, Array, Array]:
        problem = regression(rows, d, None, noise)
        w = solve(problem.gram, problem.moment, self.selector.rich(problem))
        support: list[int] | None = None
        for _ in range(_ROUNDS):
            problem = regression(rows, d, w, noise)
            found = self.selector.choose(problem)
            w = solve(problem.gram, problem.moment, np.array(found, dtype=int))
            if found == support:
                break
            support = found
        explained = _explained(problem, w)
        if explained <= 0:  # worse than saying nothing: what was fitted is noise
            w, explained = np.zeros_like(w), 0.0
        low, high, stability = self._resampled(problem, w)
        return w, low, high, stability, np.full(len(w), explained)

    def _resampled(self, problem: Regression, w: Array) -> tuple[Array, Array, Array]:
        """(low, high, stability) [terms] each, from rows drawn again with repeats: weighted rows are nearly independent."""
        if self.resamples < 1:
            blank = np.full(len(w), np.nan)
            return np.where(w != 0, blank, 0), np.where(w != 0, blank, 0), blank
        support = np.flatnonzero(w)
        drawn, times = np.zeros((max(_INTERVALS, self.resamples), len(w))), np.zeros(len(w))
        for i, weights in enumerate(draws(len(problem.target), len(drawn), self.seed)):
            again = problem.again(weights)
            drawn[i] = solve(again.gram, again.moment, support)
            if i < self.resamples:
                times[self.selector.choose(again)] += 1
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
        return low, high, times / self.resamples


def _explained(problem: Regression, w: Array) -> float:
    return float(1 - problem.misfit(w) / max(float(problem.target @ problem.target), np.finfo(float).tiny))


def _named(given: Sequence[str] | None, count: int, letter: str) -> tuple[str, ...]:
    if given is None:
        return (letter,) if count == 1 else tuple(f"{letter}{i}" for i in range(count))
    if len(given) != count or len(set(given)) != count:
        raise ClocheError(f"{list(given)} do not name {count} columns: give each a name of its own.")
    return tuple(given)


def _check_motion(states: Sequence[str], noise: Array, spread: Array) -> None:
    lost = np.flatnonzero(noise**2 > _LOST * spread**2)
    if len(lost):
        d = int(lost[0])
        raise ClocheError(
            f"State {states[d]} is mostly noise from one sample to the next (standard deviation {noise[d]:.3g} of "
            f"{spread[d]:.3g}), so no motion can be read from it: sample more finely, or give the noise you know of."
        )


def _check_terms(terms: Sequence[str]) -> None:
    twice = sorted({name for name in terms if terms.count(name) > 1})
    if twice:
        raise ClocheError(f"The library holds {twice[0]!r} more than once, so its share is undetermined: keep one.")
    if len(terms) > _MOST_TERMS:
        raise ClocheError(f"The library has {len(terms):,} terms, more than {_MOST_TERMS:,}: choose a smaller degree.")
