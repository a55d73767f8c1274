"""SINDy: sparse identification of nonlinear dynamics (Brunton, Proctor and Kutz 2016), with defaults that tolerate noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cloche.errors import SeriesInvalid
from cloche.part import Part
from cloche.sparse.sindy.equation import resampled
from cloche.sparse.sindy.library import Array, Library
from cloche.sparse.sindy.model import Model
from cloche.sparse.sindy.regression import Noise
from cloche.sparse.sindy.search import Candidate, Search
from cloche.sparse.sindy.selection import ForwardBackward, Selector
from cloche.sparse.sindy.series import Series, noise_of, read
from cloche.sparse.sindy.weak import Form, Weak

_LEAST_NOISE = 1e-3  # of a state's standard deviation: the least noise assumed of any measurement and quadrature
_MOST_NOISE = 0.5  # of a state's variance: more noise leaves no motion to find an equation for


@dataclass(frozen=True)
class SINDy(Part):
    """Finds equations of motion x' = f(x, u), each with a few terms of a library, from noisy series.

    library: candidate terms of f. None uses polynomials up to degree 2, and up to degree 3 for states whose residual
    exceeds the noise.
    form: how the derivative is estimated; the weak form by default.
    selector: how terms are chosen; by default the extended Bayesian information criterion along forward and backward paths.
    noise: standard deviation of the measurement noise, per state or of all states; estimated from the series if None.
    resamples: bootstrap resamples of the windows for the intervals and the stability of each term; 0 leaves both out (NaN).

    >>> import numpy as np
    >>> from cloche.sparse.sindy import SINDy
    >>> t = np.linspace(0, 10, 500)
    >>> x = np.stack([np.cos(t), -np.sin(t)], 1) + 0.01 * np.random.default_rng(0).standard_normal((500, 2))
    >>> SINDy(resamples=0).fit(x, t, states=["x", "v"]).equations(digits=2)
    ["x' = 1 v", "v' = -1 x"]
    """

    library: Library | None = None
    form: Form = field(default_factory=Weak)
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
        """Fits the model of series x [n, states] at times t [n] (or a time step), with known inputs u [n, inputs].

        Lists of arrays are several trajectories of one system, of any lengths. Times may be uneven. Samples masked in a
        masked array are left out. `Model.notes` say what not to trust in the equations: dependent terms, and residuals that
        noise does not explain. Raises ClocheError for series that are too short, never change, contain NaN, or give too few
        windows to distinguish terms.
        """
        series = read(x, t, u)
        names = _named(states, series[0].x.shape[1], "x"), _named(inputs, series[0].u.shape[1], "u")
        spread = np.concatenate([s.x for s in series]).std(0)
        noise = self._noise(series, spread)
        _check_motion(names[0], noise.assumed, spread)
        search = Search.over(series, noise, names, self.form, self.selector)
        chosen, notes = search.choose(self.library)
        masked = sum(s.masked for s in series)
        dropped = [f"Masked samples were left out: {masked:,}."] if masked else []
        return self._model(search, chosen, [*dropped, *notes, *search.resolve(chosen)])

    def _model(self, search: Search, chosen: list[Candidate], notes: list[str]) -> Model:
        largest = max(chosen, key=lambda candidate: len(candidate.terms))
        place = {name: j for j, name in enumerate(largest.terms)}
        count, states = len(largest.terms), len(chosen)
        coefficients, intervals = np.zeros((count, states)), np.zeros((count, states, 2))
        stability = np.full((count, states), np.nan)
        for d, candidate in enumerate(chosen):
            at = [place[name] for name in candidate.terms]
            coefficients[at, d] = candidate.equation.coefficients
            intervals[at, d], stability[at, d] = resampled(candidate.equation, self.selector, self.resamples, self.seed)
        return Model(
            largest.library,
            largest.terms,
            *search.names,
            coefficients,
            intervals,
            stability,
            search.noise.assumed,
            np.array([candidate.equation.explained for candidate in chosen]),
            np.array([candidate.equation.misfit for candidate in chosen]),
            np.array([candidate.equation.adequate for candidate in chosen]),
            np.abs(np.concatenate([s.x for s in search.series])).max(0),
            notes,
        )

    def _noise(self, series: Sequence[Series], spread: Array) -> Noise:
        if self.noise is None:
            measured = noise_of(series)
            return Noise(measured, np.maximum(measured, _LEAST_NOISE * spread))
        given = np.broadcast_to(np.asarray(self.noise, dtype=float), spread.shape)
        if not np.isfinite(given).all() or (given < 0).any():
            raise SeriesInvalid(f"noise is {self.noise}, but must be zero or more, in the units of the states.")
        return Noise(given, np.maximum(given, _LEAST_NOISE * spread))


def _named(given: Sequence[str] | None, count: int, letter: str) -> tuple[str, ...]:
    if given is None:
        return (letter,) if count == 1 else tuple(f"{letter}{i}" for i in range(count))
    if len(given) != count or len(set(given)) != count:
        raise SeriesInvalid(f"{list(given)} do not name {count} columns: give each column a distinct name.")
    return tuple(given)


def _check_motion(states: Sequence[str], noise: Array, spread: Array) -> None:
    noisy = np.flatnonzero(noise**2 > _MOST_NOISE * spread**2)
    if len(noisy):
        d = int(noisy[0])
        raise SeriesInvalid(
            f"State {states[d]} is mostly noise from sample to sample (standard deviation {noise[d]:.3g} of "
            f"{spread[d]:.3g}), so its motion cannot be found: sample more finely, or give the noise if you know it."
        )
