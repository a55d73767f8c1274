"""Curvelets: elongated atoms at every scale, position and direction, with width ~ length^2."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cloche.errors import SettingConflict
from cloche.sparse.transforms.base import check_shape
from cloche.sparse.transforms.frequency import FrequencyFrame, Window, centred_grid, polar, rise, smallest_grid


@dataclass(frozen=True)
class Curvelets(FrequencyFrame):
    """A tight frame of curvelets for images [height, width] of any sides (Candes, Demanet, Donoho & Ying 2006).

    Meyer windows in radius (one for each of `levels` octaves) and in angle, folded ("wrapped") into the smallest grid that
    holds them, divided by the root of their squared sum, so it is tight to rounding. `directions` of the half turn at the
    coarsest octave double at every second octave: length^2 ~ width. The windows are polar rather than sheared. About ten times
    redundant, against 7.2 of the sheared kind. Bands: "coarse" and "curvelet/SCALE/DIRECTION" (scale 1 the finest; cosine and
    sine parts, [2, ...]), direction 0 for frequencies along the width.

    >>> import torch
    >>> from cloche.sparse.transforms import Curvelets
    >>> transform = Curvelets((32, 32), levels=2)
    >>> x = torch.rand(32, 32, dtype=torch.float64)
    >>> coefficients = transform.analyse(x)
    >>> torch.allclose(transform.synthesise(coefficients), x), round(transform.redundancy, 2)
    (True, ...)
    """

    shape: tuple[int, int]
    levels: int = 4
    directions: int = 8

    def __post_init__(self) -> None:
        check_shape("Curvelets", self.shape, (2,))
        if self.levels < 1 or self.directions < 2 or 2 ** (self.levels + 2) > min(self.shape):
            raise SettingConflict(
                f"Curvelets of {self.levels} levels and {self.directions} directions are impossible for {list(self.shape)}: "
                f"use 1 to {int(np.log2(min(self.shape))) - 2} levels, and 2 directions or more."
            )

    def _windows(self) -> list[Window]:
        radius, angle = polar(self.shape)
        edge = 2.0**-self.levels  # shares of the Nyquist frequency, where the coarse band ends
        coarse = _below(radius, edge)
        found = [Window("coarse", 0, coarse, centred_grid(coarse))]
        for scale in range(self.levels, 0, -1):
            octave = np.sqrt(np.clip(1 - _below(radius, 2.0**-scale) ** 2, 0, 1))
            octave = octave if scale == 1 else octave * _below(radius, 2.0 ** (1 - scale))
            count = self.directions * 2 ** ((self.levels - scale + 1) // 2)
            for index in range(count):
                off = np.abs((angle - index * np.pi / count + np.pi) % (2 * np.pi) - np.pi) * count / np.pi
                wedge = octave * rise(1 - off)
                found.append(Window(f"curvelet/{scale}/{index}", scale, wedge, smallest_grid(wedge), one_sided=True))
        return found


def _below(radius: np.ndarray, edge: float) -> np.ndarray:
    """One below 2/3 of `edge`, zero above 4/3 of it."""
    return rise(2 - 1.5 * radius / edge)
