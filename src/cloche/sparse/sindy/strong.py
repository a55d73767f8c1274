"""The strong form: derivatives of the series themselves, from polynomials fitted around each point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from cloche.errors import SettingRange
from cloche.sparse.sindy.series import Array, Series
from cloche.sparse.sindy.weak import Form, Weak

_GAP = 0.25  # of the radius: a polynomial is smooth over a longer gap than a spline


@dataclass(frozen=True)
class Strong(Form):
    """x'(c) = f(x)(c) at centres c, both sides smoothed by a weighted polynomial of degree `degree` through |t - c| < radius.

    Savitzky and Golay's filter, at any sampling (Cleveland's tricube weights). It is plainer than the weak form and less
    resistant to noise: a derivative is taken of what was smoothed over a short stretch, where the weak form takes none.
    `radius` is in units of t; None takes `paces` times the pace of the fastest state.
    """

    radius: float | None = None
    paces: float = 1.5
    degree: int = 3
    stride: float = 0.3
    most: int = 400

    def __post_init__(self) -> None:
        if not 1 <= self.degree <= 9:
            raise SettingRange(f"Smoothing by polynomials of degree {self.degree} is not offered: choose 1 to 9.")

    def radius_for(self, series: Sequence[Series], paces: Array) -> float:
        """In units of t: at least wide enough that a window holds twice as many samples as its polynomial has amounts."""
        step = float(np.median(np.concatenate([np.diff(s.t) for s in series])))
        return max(self._windows().radius_for(series, paces), (self.degree + 1) * step)

    def matrices(self, one: Series, radius: float) -> tuple[csr_array, csr_array]:
        """(V, D), both [windows, n]: V f(x) is f smoothed at the centres, and -D x the derivative there."""
        centres = self._windows().centres(one, radius, _GAP)
        at = (one.t[None, :] - centres[:, None]) / radius
        weight = np.maximum(1 - np.abs(at) ** 3, 0.0) ** 3
        enough = (weight > 0).sum(1) > self.degree
        at, weight = at[enough], weight[enough]
        powers = np.where(weight > 0, at, 0.0)[:, :, None] ** np.arange(self.degree + 1)
        weighted = powers * weight[:, :, None]
        amounts = np.linalg.solve(
            np.swapaxes(weighted, 1, 2) @ powers, np.swapaxes(weighted, 1, 2)
        )  # [windows, power, n]
        return csr_array(amounts[:, 0]), csr_array(-amounts[:, 1] / radius)

    def _windows(self) -> Weak:
        return Weak(self.radius, self.paces, stride=self.stride, most=self.most)
