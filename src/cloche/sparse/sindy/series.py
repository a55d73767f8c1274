"""Measured series: read from arrays or lists, checked, with estimates of their noise and timescales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cloche.errors import NotFinite, SeriesInvalid

Array = np.ndarray
MIN_SAMPLES = 12  # samples: with fewer, windows wide enough to average the noise cover the whole series
_ORDER = 5  # of the differences that noise is estimated from: cubic trends and most of a wave vanish in them
_DECORRELATED = 0.3  # of the variance: half the mean square difference of samples one timescale apart


@dataclass(frozen=True, eq=False)
class Series:
    """One trajectory: times t [n] (increasing), states x [n, s], inputs u [n, m] (m may be 0), float64.

    `masked` counts the samples that were left out because one of their values was masked.
    """

    t: Array
    x: Array
    u: Array
    masked: int = 0

    @property
    def variables(self) -> Array:
        """[n, s + m] states followed by inputs."""
        return np.concatenate([self.x, self.u], 1)

    @property
    def even(self) -> bool:
        """Whether the times are equally spaced, up to rounding (of times in seconds since 1970, say)."""
        steps = np.diff(self.t)
        rounding = 4 * np.finfo(float).eps * float(np.abs(self.t).max())
        return bool(np.ptp(steps) <= max(1e-6 * float(steps.mean()), rounding))

    @property
    def step(self) -> float:
        """Median time between samples."""
        return float(np.median(np.diff(self.t)))


def read(x: Any, t: Any, u: Any = None) -> list[Series]:
    """Reads the trajectories in `x`: an array [n, s] (or [n]) or a list of them; t and u likewise, t also as one step for
    all.

    A list whose entries are arrays or tables is a list of trajectories, of any lengths; a list of numbers, or of rows of
    numbers, is one table. Samples masked in a masked array are left out. Raises ClocheError for shapes that disagree, NaN,
    times that do not increase, too few samples, and states that never change.
    """
    several = _several(x, t)
    states = list(x) if several else [x]
    times = _each(t, several, len(states), "t")
    inputs = _each(u, several, len(states), "u")
    found = [_one(a, b, c, i, several) for i, (a, b, c) in enumerate(zip(states, times, inputs, strict=True))]
    widths = {(s.x.shape[1], s.u.shape[1]) for s in found}
    if len(widths) > 1:
        raise SeriesInvalid(
            f"The trajectories have different states and inputs, {sorted(widths)}: give each the same columns."
        )
    spread = np.concatenate([s.x for s in found]).std(0)
    size = np.abs(np.concatenate([s.x for s in found])).max(0)
    still = np.flatnonzero(spread <= 1e-12 * np.maximum(size, np.finfo(float).tiny))
    if len(still):
        raise SeriesInvalid(
            f"State {int(still[0])} never changes (it is {found[0].x[0, still[0]]:g} throughout), so it has no equation of "
            "motion: leave that column out."
        )
    return found


def _several(x: Any, t: Any) -> bool:
    """Whether x is a list of trajectories, rather than one table written as a list of rows."""
    if not isinstance(x, (list, tuple)) or not x:
        return False
    deep = [_depth(entry) for entry in x]
    if max(deep) >= 2:
        return True
    if max(deep) == 0:
        return False
    if isinstance(t, (list, tuple)) and any(_depth(entry) for entry in t):
        return True  # times per trajectory
    if _depth(t) == 1 and len(t) == len(x):
        return False  # one time per row
    return any(hasattr(entry, "__array__") for entry in x) or len({len(entry) for entry in x}) > 1


def _depth(value: Any) -> int:
    """Number of axes of an array, or of nested lists as far as their first entries show."""
    axes = getattr(value, "ndim", None)
    if isinstance(axes, int):
        return axes
    if isinstance(value, (list, tuple)):
        return 1 + (_depth(value[0]) if value else 0)
    return np.ndim(value) if hasattr(value, "__array__") else 0


def _each(value: Any, several: bool, count: int, name: str) -> list[Any]:
    if not several:
        return [value]
    if value is None or _depth(value) == 0:
        return [value] * count
    if not isinstance(value, (list, tuple)) or len(value) != count:
        raise SeriesInvalid(f"x is a list of {count} trajectories, so {name} must be a list of {count} as well.")
    return list(value)


def _one(x: Any, t: Any, u: Any, index: int, several: bool) -> Series:
    where = f"of trajectory {index} " if several else ""
    states, keep = _table(x, f"x {where}")
    n = len(states)
    inputs, known = (np.zeros((n, 0)), np.ones(n, dtype=bool)) if u is None else _table(u, f"u {where}")
    if len(inputs) != n:
        raise SeriesInvalid(f"The inputs u {where}have {len(inputs)} rows and x has {n}: give one row of u per sample.")
    times, timed = _times(t, n, where)
    keep &= known & timed
    left = int(keep.sum())
    if left < MIN_SAMPLES:
        masked = f", {n - left} of them masked," if left < n else ""
        raise SeriesInvalid(
            f"The series x {where}has {n} samples{masked} but {MIN_SAMPLES} or more are needed to distinguish motion from "
            "noise: measure longer."
        )
    times, states, inputs = times[keep], states[keep], inputs[keep]
    for table, name in ((states, "x"), (inputs, "u")):
        wrong = np.flatnonzero(~np.isfinite(table).all(1))
        if len(wrong):
            row = int(np.flatnonzero(keep)[wrong[0]])
            raise NotFinite(
                f"The series {name} {where}contains NaN or infinity, first in row {row}: leave those samples out (steps may "
                "be uneven), or mask them."
            )
    if not np.isfinite(times).all():
        raise NotFinite(f"The times t {where}contain NaN or infinity: leave those samples out, or mask them.")
    if not (np.diff(times) > 0).all():
        raise SeriesInvalid(f"The times t {where}do not increase from sample to sample: sort them and drop repeats.")
    return Series(times, states, inputs, n - left)


def _table(values: Any, name: str) -> tuple[Array, Array]:
    """(The values [samples, columns], [samples] whether all values of a sample are unmasked)."""
    table = _numbers(values, name)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or table.shape[1] == 0:
        raise SeriesInvalid(f"The series {name}has shape {list(table.shape)}: give an array [samples, states].")
    return table, np.all(_known(values, table), axis=1)


def _known(values: Any, table: Array) -> Array:
    """Which entries of the table are not masked."""
    masked = (
        np.ma.getmaskarray(values).reshape(table.shape) if np.ma.isMaskedArray(values) else np.zeros(table.shape, bool)
    )
    return ~masked


def _numbers(values: Any, name: str) -> Array:
    try:
        plain = np.asarray(values)
        if plain.dtype.kind in "cmM":
            raise TypeError
        return np.array(plain, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):
        raise SeriesInvalid(
            f"The series {name}contains something other than numbers, or rows of different lengths: give an array [samples, "
            "states] of real numbers."
        ) from None


def _times(t: Any, n: int, where: str) -> tuple[Array, Array]:
    """([n] the times, [n] which of them are not masked)."""
    if t is None:
        raise SeriesInvalid("There are no times: give t [samples], or the step between samples.")
    times = _numbers(t, f"t {where}")
    if times.ndim == 0:
        if not 0 < times < np.inf:
            raise SeriesInvalid(f"The step t is {float(times):g}, but must be above zero.")
        return np.arange(n) * float(times), np.ones(n, dtype=bool)
    if times.shape == (n, 1):
        times = times[:, 0]
    if times.shape != (n,):
        raise SeriesInvalid(f"The times t {where}have shape {list(times.shape)} and x has {n} samples: give [{n}].")
    return times, _known(t, times)


def noise_of(series: Sequence[Series]) -> Array:
    """[states] the standard deviation of the measurement noise, assuming that it is independent between samples.

    From differences of order 5 scaled to norm one (divided differences if sampling is uneven): smooth motion vanishes in
    them and white noise keeps its variance. Uses their median magnitude, so that bursts of fast motion do not count.
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


def timescale(series: Sequence[Series], noise: Array) -> Array:
    """[states] the time in which each state, on average, changes by a fair part of its spread (for a sine, an eighth of its
    period).

    From the variogram, the mean square of x(t + h) - x(t), without the part due to noise: the smallest lag h at which half
    of it reaches 0.3 of the variance.
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
    """[m, s] the states at equal steps: as they are, or interpolated linearly if sampled at other times."""
    if one.even and abs(one.step - step) <= 1e-6 * step:
        return one.x
    grid = np.arange(one.t[0], one.t[-1], step)
    return np.stack([np.interp(grid, one.t, column) for column in one.x.T], 1)
