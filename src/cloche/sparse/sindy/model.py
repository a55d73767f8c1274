"""Equations of motion found by SINDy: printed, evaluated, simulated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicSpline

from cloche.errors import SeriesInvalid
from cloche.sparse.sindy.library import Array, Library

_FAR = 1e6  # times the largest state measured: a simulation that goes beyond has diverged
_MOST_CALLS = 200_000  # of the right-hand side in one simulation


@dataclass(frozen=True, eq=False)
class Model:
    """x' = f(x, u), with f a few terms of a library per state.

    `coefficients` [terms, states]; `intervals` [terms, states, 2], 95% intervals over resampled windows, given the support;
    `stability` [terms, states], the share of resamples in which a new search chose the term (NaN if there was none);
    `noise` [states], the standard deviation assumed of the measurement noise; `explained` [states], the share of the
    derivatives, each window weighted by its noise, that the equation explains; `misfit` [states], the variance of the
    residual over that of the noise, about one if the equation is true; `adequate` [states], whether noise alone can explain
    the residual. `notes` are sentences that say what not to trust in the equations: read them.

    >>> import numpy as np
    >>> from cloche.sparse.sindy import SINDy
    >>> t = np.linspace(0, 4, 200)
    >>> model = SINDy().fit(np.exp(-t), t)
    >>> print(model)
    x' = -1 x
        x: -1  [-1, -1], chosen in 100% of resamples
        explains 100.0% of x', noise ..., residual variance ... times the noise's
    >>> model.rhs([[2.0]]).round(3).tolist(), model.simulate([1.0], [0, 1]).round(3).tolist()
    ([[-2.0]], [[1.0], [0.368]])
    """

    library: Library
    terms: tuple[str, ...]
    states: tuple[str, ...]
    inputs: tuple[str, ...]
    coefficients: Array
    intervals: Array
    stability: Array
    noise: Array
    explained: Array
    misfit: Array
    adequate: Array
    largest: Array  # [states] largest magnitude measured
    notes: list[str] = field(default_factory=list)

    def rhs(self, x: Any, u: Any = None) -> Array:
        """[n, states] (or [states] for one point) the derivative f(x, u) at points x, with inputs u [n, inputs]."""
        points = np.atleast_2d(np.asarray(x, dtype=float))
        given = np.zeros((len(points), 0)) if u is None else np.asarray(u, dtype=float).reshape(len(points), -1)
        if points.shape[1] != len(self.states) or given.shape[1] != len(self.inputs):
            raise SeriesInvalid(
                f"The model has {len(self.states)} states and {len(self.inputs)} inputs, but x has {points.shape[1]} columns "
                f"and u {given.shape[1]}: give one column for each."
            )
        slope = self.library.values(np.concatenate([points, given], 1)) @ self.coefficients
        return slope if np.ndim(x) > 1 else slope[0]

    def simulate(self, x0: Any, t: Any, u: Any = None) -> Array:
        """[n, states] the motion from state x0 (at t[0]) at times t [n].

        `u` is a function of time that gives the inputs, or their values [n, inputs] at t, interpolated by a cubic spline.
        Raises ClocheError, with the time, if the motion exceeds a million times the largest state measured.
        """
        times, start = np.asarray(t, dtype=float), np.atleast_1d(np.asarray(x0, dtype=float))
        if times.ndim != 1 or len(times) < 2 or not (np.diff(times) > 0).all():
            raise SeriesInvalid("A simulation needs increasing times: give t with at least two of them.")
        if start.shape != (len(self.states),) or not np.isfinite(start).all():
            raise SeriesInvalid(
                f"x0 has shape {list(start.shape)}: give one finite number for each of {self._named()}."
            )
        signal, calls = self._signal(u, times), 0

        def slope(now: float, x: Array) -> Array:
            nonlocal calls
            calls += 1
            if calls > _MOST_CALLS or not (np.abs(x) <= _FAR * self.largest).all():
                raise _Diverged(now)
            return self.library.values(np.concatenate([x, signal(now)])[None])[0] @ self.coefficients

        try:
            with np.errstate(over="ignore", invalid="ignore"):
                found = solve_ivp(
                    slope, (times[0], times[-1]), start, "LSODA", times, rtol=1e-8, atol=1e-10 * self.largest
                )
            if not found.success:
                raise _Diverged(float(found.t[-1]) if len(found.t) else float(times[0]))
        except _Diverged as divergence:
            raise SeriesInvalid(
                f"The simulated motion diverges near t = {divergence.time:.4g}: simulate a shorter time, start closer to the "
                "measured states, or fit a model with fewer terms."
            ) from None
        return found.y.T

    def _signal(self, u: Any, times: Array) -> Callable[[float], Array]:
        if u is None and not self.inputs:
            return lambda now: np.zeros(0)
        if callable(u):
            return lambda now: np.atleast_1d(np.asarray(u(now), dtype=float))
        table = None if u is None else np.asarray(u, dtype=float).reshape(len(u), -1)
        if table is None or table.shape != (len(times), len(self.inputs)):
            raise SeriesInvalid(
                f"The model has the inputs {', '.join(self.inputs) or 'none'}: give u as a function of time, or as values "
                f"[{len(times)}, {len(self.inputs)}]."
            )
        return CubicSpline(times, table)

    def _named(self) -> str:
        return ", ".join(self.states)

    def equations(self, digits: int = 4) -> list[str]:
        """One line per state, such as "x' = -9.99 x + 10.01 y"."""
        return [
            f"{s}' = {written(self.terms, w, digits)}" for s, w in zip(self.states, self.coefficients.T, strict=True)
        ]

    def __str__(self) -> str:
        lines = []
        for d, line in enumerate(self.equations()):
            lines.append(line)
            for j in np.flatnonzero(self.coefficients[:, d]):
                low, high = self.intervals[j, d]
                seen = "" if np.isnan(self.stability[j, d]) else f", chosen in {self.stability[j, d]:.0%} of resamples"
                lines.append(f"    {self.terms[j]}: {self.coefficients[j, d]:.4g}  [{low:.4g}, {high:.4g}]{seen}")
            lines.append(
                f"    explains {self.explained[d]:.1%} of {self.states[d]}', noise {self.noise[d]:.3g}, "
                f"residual variance {self.misfit[d]:.3g} times the noise's"
            )
        return "\n".join([*lines, *(f"Note: {note}" for note in self.notes)])

    def record(self) -> dict[str, Any]:
        """The model as plain values, for JSON; coefficients and intervals of each equation's own terms only."""
        return {
            "equations": self.equations(),
            "states": {state: self._state(d) for d, state in enumerate(self.states)},
            "inputs": list(self.inputs),
            "terms": list(self.terms),
            "notes": list(self.notes),
        }

    def _state(self, d: int) -> dict[str, Any]:
        found = {}
        for j in np.flatnonzero(self.coefficients[:, d]).tolist():
            low, high = (None if np.isnan(end) else float(end) for end in self.intervals[j, d])
            seen = float(self.stability[j, d])
            found[self.terms[j]] = {
                "coefficient": float(self.coefficients[j, d]),
                "low": low,
                "high": high,
                "stability": None if np.isnan(seen) else seen,
            }
        return {
            "terms": found,
            "explained": float(self.explained[d]),
            "noise": float(self.noise[d]),
            "misfit": float(self.misfit[d]),
            "adequate": bool(self.adequate[d]),
        }


class _Diverged(Exception):
    def __init__(self, time: float) -> None:
        self.time = time


def written(terms: Sequence[str], coefficients: Sequence[float] | Array, digits: int) -> str:
    """A weighted sum as text, such as "-9.99 x + 10.01 y"; "0" if every coefficient is zero."""
    text = ""
    for name, coefficient in zip(terms, np.asarray(coefficients).tolist(), strict=True):
        if coefficient:
            size = f"{abs(coefficient):.{digits}g}"
            sign = "-" if coefficient < 0 else "+"
            term = size if name == "1" else f"{size} {name}"
            text += f" {sign} {term}" if text else (f"-{term}" if coefficient < 0 else term)
    return text or "0"
