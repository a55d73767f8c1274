"""SINDy: sparse identification of nonlinear dynamics (Brunton, Proctor and Kutz 2016), with one default that stands noise."""

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
from cloche.sparse.sindy.search import Held, Search
from cloche.sparse.sindy.selection import ForwardBackward, Selector
from cloche.sparse.sindy.series import Series, noise_of, read
from cloche.sparse.sindy.weak import Form, Weak

_LEAST_NOISE = 1e-3  # of a state's spread: nothing is believed to be measured better, nor quadrature to be exacter
_LOST = 0.5  # of a state's variance: more noise than that leaves no motion to find an equation for


@dataclass(frozen=True)
class SINDy(Part):
    """Finds equations of motion x' = f(x, u) as a few terms of a library, from noisy series.

    library: the terms f may have. None takes polynomials up to the second degree, and up to the third for the states whose
    residual those leave larger than the noise.
    form: how the derivative is had: the weak form unless told.
    selector: how terms are chosen; by default the extended Bayesian information criterion along forward and backward paths.
    noise: the measurement noise's standard deviation, of each state or of all; estimated from the series when None.
    resamples: of the windows, for the intervals and the stability of each term; 0 leaves both out (NaN).
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
        """The model of the series x [n, states] at the times t [n] (or a step), with known inputs u [n, inputs].

        Lists of arrays are several trajectories of one system, of any lengths. Times may be uneven. Samples that a masked array
        masks are left out. The `notes` of the model say what not to trust in its equations: terms that are dependent, and
        residuals that the noise does not explain. Raises ClocheError for series that are too short, never move, hold NaN, or
        whose windows are fewer than can tell terms apart.
        """
        series = read(x, t, u)
        names = _named(states, series[0].x.shape[1], "x"), _named(inputs, series[0].u.shape[1], "u")
        spread = np.concatenate([s.x for s in series]).std(0)
        noise = self._noise(series, spread)
        _check_motion(names[0], noise.supposed, spread)
        search = Search.over(series, noise, names, self.form, self.selector)
        chosen, notes = search.chosen(self.library)
        lost = sum(s.masked for s in series)
        left_out = [f"Samples that are masked were left out: {lost:,}."] if lost else []
        return self._model(search, chosen, [*left_out, *notes, *search.settle(chosen)])

    def _model(self, search: Search, chosen: list[Held], notes: list[str]) -> Model:
        largest = max(chosen, key=lambda held: len(held.terms))
        place = {name: j for j, name in enumerate(largest.terms)}
        count, states = len(largest.terms), len(chosen)
        amounts, intervals = np.zeros((count, states)), np.zeros((count, states, 2))
        stability = np.full((count, states), np.nan)
        for d, held in enumerate(chosen):
            at = [place[name] for name in held.terms]
            amounts[at, d] = held.equation.amounts
            intervals[at, d], stability[at, d] = resampled(held.equation, self.selector, self.resamples, self.seed)
        return Model(
            largest.library,
            largest.terms,
            *search.names,
            amounts,
            intervals,
            stability,
            search.noise.supposed,
            np.array([held.equation.explained for held in chosen]),
            np.array([held.equation.misfit for held in chosen]),
            np.array([held.equation.adequate for held in chosen]),
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
        raise SeriesInvalid(f"{list(given)} do not name {count} columns: give each a name of its own.")
    return tuple(given)


def _check_motion(states: Sequence[str], noise: Array, spread: Array) -> None:
    lost = np.flatnonzero(noise**2 > _LOST * spread**2)
    if len(lost):
        d = int(lost[0])
        raise SeriesInvalid(
            f"State {states[d]} is mostly noise from one sample to the next (standard deviation {noise[d]:.3g} of "
            f"{spread[d]:.3g}), so no motion can be read from it: sample more finely, or give the noise you know of."
        )
