"""The strong form: derivatives of the series, from polynomials fitted around each point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from cloche.errors import SettingRange
from cloche.sparse.sindy.series import Array, Series
from cloche.sparse.sindy.weak import Form, Weak

_GAP = 0.25  # of the radius: a polynomial tolerates longer gaps than a spline


@dataclass(frozen=True)
class Strong(Form):
    """x'(c) = f(x)(c) at centres c, both sides smoothed by a weighted polynomial of degree `degree` through |t - c| <
    radius.

    The Savitzky-Golay filter, for any sampling (with Cleveland's tricube weights). It is simpler than the weak form and
    less robust to noise: it differentiates what was smoothed over a short window, while the weak form differentiates no
    data. `radius` is in units of t; None uses `timescales` times the timescale of the fastest state.

    >>> import numpy as np
    >>> from cloche.sparse.sindy import SINDy, Strong
    >>> t = np.linspace(0, 4, 200)
    >>> x = np.exp(-t) + 0.002 * np.random.default_rng(0).standard_normal(200)
    >>> SINDy(form=Strong(), resamples=0).fit(x, t).equations(2)
    ["x' = -1 x"]
    """

    radius: float | None = None
    timescales: float = 1.5
    degree: int = 3
    stride: float = 0.3
    max_windows: int = 400

    def __post_init__(self) -> None:
        if not 1 <= self.degree <= 9:
            raise SettingRange(f"Smoothing by polynomials of degree {self.degree} is not supported: choose 1 to 9.")

    def radius_for(self, series: Sequence[Series], timescales: Array) -> float:
        """In units of t: wide enough for a window to contain twice as many samples as its polynomial has coefficients."""
        step = float(np.median(np.concatenate([np.diff(s.t) for s in series])))
        return max(self._windows().radius_for(series, timescales), (self.degree + 1) * step)

    def matrices(self, one: Series, radius: float) -> tuple[csr_array, csr_array]:
        """(V, D), both [windows, n]: V f(x) is f smoothed at the centres, and -D x the derivative there."""
        centres = self._windows().centres(one, radius, _GAP)
        at = (one.t[None, :] - centres[:, None]) / radius
        weight = np.maximum(1 - np.abs(at) ** 3, 0.0) ** 3
        enough = (weight > 0).sum(1) > self.degree
        at, weight = at[enough], weight[enough]
        powers = np.where(weight > 0, at, 0.0)[:, :, None] ** np.arange(self.degree + 1)
        weighted = powers * weight[:, :, None]
        coefficients = np.linalg.solve(
            np.swapaxes(weighted, 1, 2) @ powers, np.swapaxes(weighted, 1, 2)
        )  # [windows, power, n]
        return csr_array(coefficients[:, 0]), csr_array(-coefficients[:, 1] / radius)

    def _windows(self) -> Weak:
        return Weak(self.radius, self.timescales, stride=self.stride, max_windows=self.max_windows)
