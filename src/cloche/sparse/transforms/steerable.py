"""The steerable pyramid: derivatives of every order of direction at every octave, real and tight."""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial

import numpy as np

from cloche.errors import SettingConflict
from cloche.sparse.transforms.base import check_shape
from cloche.sparse.transforms.frequency import FrequencyFrame, Window, centred_grid, polar


@dataclass(frozen=True)
class SteerablePyramid(FrequencyFrame):
    """The steerable pyramid (Simoncelli & Freeman 1995) of images [height, width] of any sides, a tight frame.

    Raised-cosine octaves in radius; `directions` K windows cos^(K-1) in angle, odd or even as K is: any direction's response
    is a sum of the K. Each octave is kept on the smallest grid that holds it. Bands: "coarse", "residual" (the corners beyond
    the finest octave), "steerable/SCALE/DIRECTION".

    >>> import torch
    >>> from cloche.sparse.transforms import SteerablePyramid
    >>> transform = SteerablePyramid((32, 32), levels=2)
    >>> x = torch.rand(32, 32, dtype=torch.float64)
    >>> coefficients = transform.analyse(x)
    >>> torch.allclose(transform.synthesise(coefficients), x), round(transform.redundancy, 2)
    (True, ...)
    """

    shape: tuple[int, int]
    levels: int = 4
    directions: int = 4

    def __post_init__(self) -> None:
        check_shape("Steerable pyramids", self.shape, (2,))
        if self.levels < 1 or self.directions < 1 or 2 ** (self.levels + 2) > min(self.shape):
            raise SettingConflict(
                f"A steerable pyramid of {self.levels} levels and {self.directions} directions is impossible for "
                f"{list(self.shape)}: use 1 to {int(np.log2(min(self.shape))) - 2} levels, and 1 direction or more."
            )

    def _windows(self) -> list[Window]:
        radius, angle = polar(self.shape)
        order = self.directions - 1
        gain = 2.0**order * factorial(order) / np.sqrt(self.directions * factorial(2 * order))
        low = _lowpass(radius, 1.0)
        found = [Window("residual", 1, np.sqrt(1 - low**2), self.shape)]
        for scale in range(1, self.levels + 1):
            below = _lowpass(radius, 2.0**-scale)
            octave = low * np.sqrt(np.clip(1 - below**2, 0, 1))
            for index in range(self.directions):
                lobe = gain * np.cos(angle - index * np.pi / self.directions) ** order
                values = (-1j) ** order * octave * lobe
                found.append(Window(f"steerable/{scale}/{index}", scale, values, centred_grid(values)))
            low = low * below
        return [Window("coarse", 0, low, centred_grid(low)), *found]


def _lowpass(radius: np.ndarray, edge: float) -> np.ndarray:
    """One below half of `edge`, zero from it on, a cosine of the octave between."""
    octaves = np.log2(np.maximum(radius, 1e-12) / edge)
    values = np.cos(np.pi / 2 * np.clip(octaves + 1, 0, 1))
    return np.where(octaves >= 0, 0.0, values)
