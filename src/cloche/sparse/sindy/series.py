"""The measured series: read from what the caller has, checked, and what can be told of their noise and their pace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cloche.errors import ClocheError

Array = np.ndarray
SHORTEST = 12  # samples: fewer leave no window both wide enough to calm the noise and short of the whole
_ORDER = 5  # of the differences the noise is read from: a cubic trend and most of a wave vanish in them
_DECORRELATED = 0.3  # of the variance: how far apart two samples are that differ by a pace


@dataclass(frozen=True, eq=False)
class Series:
    """One trajectory: times t [n] (rising), states x [n, s], inputs u [n, m] (m may be 0), float64."""

    t: Array
    x: Array
    u: Array

    @property
    def variables(self) -> Array:
        """[n, s + m] states and inputs beside each other."""
        return np.concatenate([self.x, self.u], 1)

    @property
    def even(self) -> bool:
        """Whether it was sampled at equal steps, to rounding."""
        steps = np.diff(self.t)
        return bool(np.ptp(steps) <= 1e-6 * steps.mean())


def read(x: Any, t: Any, u: Any = None) -> list[Series]:
    """The trajectories in `x`: an array [n, s] (or [n]) or a list of them; t and u likewise, t also a step for them all.

    Raises ClocheError for shapes that disagree, NaN, times that do not rise, too few samples, and states that never move.
    """
    several = isinstance(x, (list, tuple)) and len(x) > 0 and np.ndim(x[0]) > 0
    states = list(x) if several else [x]
    times = _each(t, several, len(states), "t")
    inputs = _each(u, several, len(states), "u")
    found = [_one(a, b, c, i, several) for i, (a, b, c) in enumerate(zip(states, times, inputs, strict=True))]
    widths = {(s.x.shape[1], s.u.shape[1]) for s in found}
    if len(widths) > 1:
        raise ClocheError(
            f"The trajectories have different states and inputs, {sorted(widths)}: give each the same columns."
        )
    spread = np.concatenate([s.x for s in found]).std(0)
    size = np.abs(np.concatenate([s.x for s in found])).max(0)
    still = np.flatnonzero(spread <= 1e-12 * np.maximum(size, np.finfo(float).tiny))
    if len(still):
        raise ClocheError(
            f"State {int(still[0])} never changes (it is {found[0].x[0, still[0]]:g} throughout), so it has no equation of "
            "motion: leave that column out."
        )
    return found


def _each(value: Any, several: bool, count: int, name: str) -> list[Any]:
    if not several:
        return [value]
    if value is None or np.ndim(value) == 0:
        return [value] * count
    if not isinstance(value, (list, tuple)) or len(value) != count:
        raise ClocheError(f"x is a list of {count} trajectories, so {name} must be a list of {count} as well.")
    return list(value)


def _one(x: Any, t: Any, u: Any, index: int, several: bool) -> Series:
    where = f"of trajectory {index} " if several else ""
    states = _table(x, f"x {where}")
    n = len(states)
    if n < SHORTEST:
        raise ClocheError(
            f"The series x {where}has {n} samples, and {SHORTEST} or more are needed to tell motion from noise: measure longer."
        )
    inputs = np.zeros((n, 0)) if u is None else _table(u, f"u {where}")
    if len(inputs) != n:
        raise ClocheError(f"The inputs u {where}have {len(inputs)} rows and x has {n}: give one row of u a sample.")
    return Series(_times(t, n, where), states, inputs)


def _table(values: Any, name: str) -> Array:
    try:
        table = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ClocheError(f"The series {name}holds what are not numbers: give an array [samples, states].") from None
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or table.shape[1] == 0:
        raise ClocheError(f"The series {name}has shape {list(table.shape)}: give an array [samples, states].")
    if not np.isfinite(table).all():
        row = int(np.flatnonzero(~np.isfinite(table).all(1))[0])
        raise ClocheError(
            f"The series {name}has NaN or infinite numbers, first in row {row}: leave those samples out (steps may be uneven)."
        )
    return table


def _times(t: Any, n: int, where: str) -> Array:
    if t is None:
        raise ClocheError("No times were given: give t [samples], or the step between samples.")
    times = np.asarray(t, dtype=np.float64)
    if times.ndim == 0:
        if not times > 0:
            raise ClocheError(f"The step t is {float(times):g}, but must be above zero.")
        return np.arange(n) * float(times)
    if times.shape != (n,):
        raise ClocheError(f"The times t {where}have shape {list(times.shape)} and x has {n} samples: give [{n}].")
    if not np.isfinite(times).all() or not (np.diff(times) > 0).all():
        raise ClocheError(f"The times t {where}do not rise from sample to sample: sort them, without repeats.")
    return times


def noise_of(series: Sequence[Series]) -> Array:
    """[states] the standard deviation of the measurement noise, supposing each sample's is its own.

    From differences of order 5 scaled to norm one (divided differences where sampling is uneven): a smooth motion vanishes in
    them and white noise keeps its variance. Their median magnitude, so bursts of fast motion do not count.
    """
    found = []
    for one in series:
        weights = _difference_weights(one.t)
        windows = np.lib.stride_tricks.sliding_window_view(one.x, _ORDER + 1, axis=0)  # [n - order, s, order + 1]
        found.append(np.einsum("nsk,nk->ns", windows, weights))
    return np.median(np.abs(np.concatenate(found)), axis=0) / 0.6744897501960817  # the median of |N(0, 1)|


def _difference_weights(t: Array) -> Array:
    windows = np.lib.stride_tricks.sliding_window_view(t, _ORDER + 1)
    apart = windows[:, :, None] - windows[:, None, :]
    apart = apart / apart[:, -1:, :1] + np.eye(_ORDER + 1)  # in units of the window, so that nothing overflows
    weights = 1 / apart.prod(2)
    return weights / np.linalg.norm(weights, axis=1, keepdims=True)


def pace(series: Sequence[Series], noise: Array) -> Array:
    """[states] the time in which each state, on average, moves by a fair part of its spread (a sine: an eighth of its period).

    From the variogram, the mean square of x(t + h) - x(t), with the noise's share taken off: it is the least lag h at which
    half of that reaches 0.3 of the variance.
    """
    step = float(np.median(np.concatenate([np.diff(s.t) for s in series])))
    longest = max(s.t[-1] - s.t[0] for s in series)
    spread = np.maximum(np.concatenate([s.x for s in series]).var(0) - noise**2, np.finfo(float).tiny)
    grids = [_regular(s, step) for s in series]
    found = np.full(len(noise), longest / 2)
    waiting = np.ones(len(noise), dtype=bool)
    lags = np.unique(np.geomspace(1, max(2, longest / step / 2), 120).astype(int))
    for lag in lags:
        moves = [(g[lag:] - g[:-lag]) ** 2 for g in grids if len(g) > lag]
        half = np.concatenate(moves).mean(0) / 2 - noise**2
        reached = waiting & (half >= _DECORRELATED * spread)
        found[reached] = lag * step
        waiting &= ~reached
        if not waiting.any():
            break
    return found


def _regular(one: Series, step: float) -> Array:
    """[m, s] the states at equal steps: as they are, or drawn straight between uneven samples."""
    if one.even:
        return one.x
    grid = np.arange(one.t[0], one.t[-1], step)
    return np.stack([np.interp(grid, one.t, column) for column in one.x.T], 1)
