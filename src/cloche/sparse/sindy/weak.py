"""The weak form: an equation of motion integrated against test functions, so that no noisy series is ever differentiated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.interpolate import BSpline
from scipy.linalg import solve_banded
from scipy.sparse import csr_array

from cloche.errors import SettingRange
from cloche.part import Part
from cloche.sparse.sindy.series import Array, Series

_GAP = 0.1  # of the radius: test functions over a longer gap in the samples are left out, because the spline is wrong there
_FINE = 6  # points per sample at which test functions are integrated over unevenly sampled series


class Form(Part, ABC):
    """How the derivative of a series is estimated: by linear functionals of the series and of the terms, which must agree.

    >>> import numpy as np
    >>> from cloche.sparse.sindy import Form, SINDy, Strong, Weak
    >>> t = np.linspace(0, 4, 200)
    >>> [SINDy(form=form, resamples=0).fit(np.exp(-t), t).equations(2) for form in (Weak(), Strong()) if isinstance(form, Form)]
    [["x' = -1 x"], ["x' = -1 x"]]
    """

    @abstractmethod
    def radius_for(self, series: Sequence[Series], timescales: Array) -> float:
        """Distance from the centre of a window to its ends, in units of t."""

    @abstractmethod
    def matrices(self, one: Series, radius: float) -> tuple[csr_array, csr_array]:
        """(V, D), both [windows, n]: V f(x) = -D x for the true f, up to noise."""


@dataclass(frozen=True)
class Weak(Form):
    """Test functions (1 - ((t - c) / radius)^2)^power on |t - c| < radius, with centres c spaced by `stride` radii (at
    least one sample).

    Multiplied by the equation x' = f(x) and integrated by parts they give -int phi' x = int phi f(x) (Messenger and Bortz
    2021, "Weak SINDy"). `radius` is in units of t; None uses `timescales` times the timescale of the fastest state. A
    trajectory has at most `max_windows` windows.

    >>> import numpy as np
    >>> from cloche.sparse.sindy import SINDy, Weak
    >>> t = np.linspace(0, 4, 200)
    >>> x = np.exp(-t) + 0.02 * np.random.default_rng(0).standard_normal(200)
    >>> SINDy(form=Weak(radius=0.8), resamples=0).fit(x, t).equations(2)
    ["x' = -0.99 x"]
    """

    radius: float | None = None
    timescales: float = 4.0
    power: int = 6
    stride: float = 0.15
    max_windows: int = 400

    def __post_init__(self) -> None:
        if self.radius is not None and not 0 < self.radius < np.inf:
            raise SettingRange(f"The radius of the test functions is {self.radius:g}, but must be above zero.")
        if self.power < 2 or self.stride <= 0 or self.timescales <= 0 or self.max_windows < 1:
            raise SettingRange(
                "Test functions need a power of at least 2, and timescales, stride and max_windows above zero."
            )

    def radius_for(self, series: Sequence[Series], timescales: Array) -> float:
        """In units of t: the radius given, or `timescales` times the shortest timescale, within what the series allows."""
        if self.radius is not None:
            return self.radius
        step = float(np.median(np.concatenate([np.diff(s.t) for s in series])))
        longest = max(s.t[-1] - s.t[0] for s in series)
        return float(np.clip(self.timescales * timescales.min(), 4 * step, max(longest / 4, 3 * step)))

    def matrices(self, one: Series, radius: float) -> tuple[csr_array, csr_array]:
        """(V, D), both [windows, n]: V f(x) are the integrals of phi f, and -D x those of phi x', for any sampling."""
        centres = self.centres(one, radius)
        if one.even:
            phi, slope = self._on(one.t, centres, radius)
            step = (one.t[-1] - one.t[0]) / (len(one.t) - 1)
            return phi * step, slope * step
        return self._uneven(one.t, centres, radius)

    def centres(self, one: Series, radius: float, gap: float = _GAP) -> Array:
        """[windows] centres of the test functions: none if the series is shorter than one of them, none over a gap.

        A gap is a step longer than `gap` radii.
        """
        start, end = one.t[0], one.t[-1]
        span = end - start - 2 * radius
        if span < 0:
            return np.zeros(0)
        # More windows than samples would add no information.
        stride = max(self.stride * radius, float(np.median(np.diff(one.t))))
        count = int(min(self.max_windows, span / stride + 1))
        centres = np.linspace(start + radius, end - radius, count) if count > 1 else np.array([(start + end) / 2])
        return centres[_without_gaps(one.t, centres, radius, gap)]

    def _on(self, t: Array, centres: Array, radius: float) -> tuple[csr_array, csr_array]:
        """[windows, times] the test functions and their derivatives, each scaled to integral one."""
        first, last = np.searchsorted(t, centres - radius), np.searchsorted(t, centres + radius, "right")
        ends = np.concatenate([[0], np.cumsum(last - first)])
        row = np.repeat(np.arange(len(centres)), last - first)
        column = np.arange(ends[-1]) - ends[row] + first[row]
        at = (t[column] - centres[row]) / radius
        inside = np.maximum(1 - at**2, 0.0)
        mass = radius * _integral(self.power)
        below = inside ** (self.power - 1)
        shape = len(centres), len(t)
        phi = csr_array((below * inside / mass, column, ends), shape=shape)
        slope = csr_array((-2 * self.power * at * below / (radius * mass), column.copy(), ends.copy()), shape=shape)
        return phi, slope

    def _uneven(self, t: Array, centres: Array, radius: float) -> tuple[csr_array, csr_array]:
        """Integrals of the test functions times the cubic spline through the samples, as matrices on the samples."""
        fine = np.concatenate([np.linspace(a, b, _FINE, endpoint=False) for a, b in pairwise(t)] + [t[-1:]])
        widths = np.diff(fine)
        weight = np.zeros(len(fine))
        weight[:-1] += widths / 2
        weight[1:] += widths / 2
        knots = np.concatenate([[t[0]] * 4, t[2:-2], [t[-1]] * 4])  # not-a-knot
        basis = BSpline.design_matrix(fine, knots, 3).tocsr()
        collocation = BSpline.design_matrix(t, knots, 3).toarray()
        found = []
        for functions in self._on(fine, centres, radius):
            functions.data *= weight[functions.indices]
            found.append(_thin(_solve_transposed(collocation, (functions @ basis).toarray().T).T))
        return found[0], found[1]


def _thin(matrix: Array) -> csr_array:
    """The matrix without entries below rounding: the influence of far samples on a spline decays geometrically."""
    return csr_array(np.where(np.abs(matrix) > 1e-15 * np.abs(matrix).max(initial=0.0), matrix, 0.0))


def _solve_transposed(matrix: Array, right: Array) -> Array:
    """Solves matrix^T y = right for a matrix with three diagonals on each side."""
    n = len(matrix)
    bands = np.zeros((7, n))
    transposed = matrix.T
    for offset in range(-3, 4):
        diagonal = np.diagonal(transposed, offset)
        if offset >= 0:
            bands[3 - offset, offset : offset + len(diagonal)] = diagonal
        else:
            bands[3 - offset, : len(diagonal)] = diagonal
    return solve_banded((3, 3), bands, right)


def _integral(power: int) -> float:
    """int over [-1, 1] of (1 - u^2)^power."""
    value = 2.0
    for k in range(1, power + 1):
        value *= 2 * k / (2 * k + 1)
    return value


def _without_gaps(t: Array, centres: Array, radius: float, gap: float) -> Array:
    """Which test functions cover no gap in the samples longer than `gap` radii (two steps are never a gap)."""
    steps = np.diff(t)
    wide = np.flatnonzero(steps > max(gap * radius, 2.5 * float(np.median(steps))))
    keep = np.ones(len(centres), dtype=bool)
    for i in wide:
        keep &= (centres + radius <= t[i]) | (centres - radius >= t[i + 1])
    return keep
