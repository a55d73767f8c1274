"""Contourlets: a Laplacian pyramid, each of its details split into directions by an orthogonal filter bank."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cloche.errors import SettingConflict, SettingRange
from cloche.sparse.transforms.base import Band, Transform, check_shape
from cloche.sparse.transforms.frequency import FrequencyFrame, Window, rise
from cloche.sparse.transforms.wavelets import filter_pair, filters, join, split


@dataclass(frozen=True)
class DirectionalFilterBank(FrequencyFrame):
    """2^depth directions of an image, critically sampled and orthogonal (Bamberger & Smith 1992), `depth` 2 or more.

    A tree of two-channel fan filters whose squares at a frequency and at its alias sum to one; each leaf's equivalent filter is
    applied at once, in the frequency domain, and its aliases fold onto each other as the sampling says. Sides: multiples
    of 2^(depth - 1), at least 4.

    >>> import torch
    >>> from cloche.sparse.transforms import DirectionalFilterBank
    >>> transform = DirectionalFilterBank((32, 32), depth=2)
    >>> x = torch.rand(32, 32, dtype=torch.float64)
    >>> coefficients = transform.analyse(x)
    >>> torch.allclose(transform.synthesise(coefficients), x), round(transform.redundancy, 2)
    (True, 1.0)
    """

    shape: tuple[int, int]
    depth: int = 3

    @classmethod
    def multiple(cls, settings: dict[str, Any]) -> int:
        return max(4, int(2 ** (settings["depth"] - 1)))

    def __post_init__(self) -> None:
        if self.depth < 2:
            raise SettingRange(f"A directional filter bank of depth {self.depth} is impossible: use 2 or more.")
        check_shape("Directional filter banks", self.shape, (2,), max(2, 2 ** (self.depth - 1)))

    def _windows(self) -> list[Window]:
        y, x = (2 * np.pi * np.fft.fftfreq(n) for n in self.shape)
        down, across = np.broadcast_arrays(y[:, None], x[None, :])
        return [*self._half(across, down, False), *self._half(down, across, True)]

    def _half(self, main: np.ndarray, cross: np.ndarray, turned: bool) -> list[Window]:
        """The directions whose frequencies are steeper along `main`: |cross| < |main|."""
        first = _fan(main, cross, turned_phase=turned)
        leaves = []
        for sign in (-1, 0):  # slopes cross / main in [-1, 0], [0, 1]
            a, b = main + cross, main - cross
            second = _fan(a, b, False) if sign == 0 else _fan(b, a, True)
            leaves.append((sign, first * second))
        for m in range(self.depth - 2):  # [p, p + 1] / 2^m into halves
            finer = []
            for p, values in leaves:
                a = 2 ** (m + 1) * cross - 2 * p * main
                b = 2 * (p + 1) * main - 2 ** (m + 1) * cross
                finer.append((2 * p, values * _fan(b, a, False)))
                finer.append((2 * p + 1, values * _fan(a, b, True)))
            leaves = finer
        small, rest = 2 ** (self.depth - 1), 2
        n, m_ = self.shape
        grid = (n // rest, m_ // small) if turned else (n // small, m_ // rest)
        half = len(leaves)
        return [Window(f"{index + half * turned}", 1, values, grid) for index, (_, values) in enumerate(leaves)]


def _fan(a: np.ndarray, b: np.ndarray, turned_phase: bool) -> np.ndarray:
    """The filter that passes |a| > |b|, each taken to within half a turn: its square and that of its alias, at a + pi and
    b + pi, sum to one.

    Of a pair, one carries the phase of the other sampling coset, which makes the two orthogonal.
    """
    near, far = np.abs(_wrapped(a)), np.abs(_wrapped(b))
    reach = np.maximum(np.minimum(near + far, 2 * np.pi - near - far), 1e-9)
    values = rise(0.5 + np.round((near - far) / reach, 12))
    return values * np.exp(-1j * (b if turned_phase else np.zeros_like(b)))


def _wrapped(t: np.ndarray) -> np.ndarray:
    return (t + np.pi) % (2 * np.pi) - np.pi


@lru_cache(maxsize=32)
def bank(shape: tuple[int, int], depth: int) -> DirectionalFilterBank:
    return DirectionalFilterBank(shape, depth)


@dataclass(frozen=True)
class Contourlets(Transform):
    """Contourlets (Do & Vetterli 2005) of images [height, width]: a tight frame, at most 4/3 redundant.

    The pyramid's lowpass is that of the orthogonal wavelet `name`, so the pyramid (Burt & Adelson 1983) is tight; scale s has
    2^(depth - (s - 1) // 2) directions, at least 4. Sides: multiples of 2^(levels + depth - 1). Bands: "coarse",
    "contourlet/SCALE/DIRECTION".

    >>> import torch
    >>> from cloche.sparse.transforms import Contourlets
    >>> transform = Contourlets((32, 32), levels=2)
    >>> x = torch.rand(32, 32, dtype=torch.float64)
    >>> coefficients = transform.analyse(x)
    >>> torch.allclose(transform.synthesise(coefficients), x), round(transform.redundancy, 2)
    (True, ...)
    """

    shape: tuple[int, int]
    levels: int = 3
    depth: int = 3
    name: str = "db4"

    @classmethod
    def multiple(cls, settings: dict[str, Any]) -> int:
        return int(2 ** (settings["levels"] + settings["depth"] - 1))

    def __post_init__(self) -> None:
        analysis, synthesis = filters(self.name)
        if not np.allclose(analysis, synthesis):
            raise SettingConflict(
                f"The pyramid of contourlets needs an orthogonal wavelet, not {self.name!r}: use db4."
            )
        if self.levels < 1 or self.depth < 2:
            raise SettingRange(
                f"Contourlets of {self.levels} levels and depth {self.depth} are impossible: use at least 1 and 2."
            )
        check_shape("Contourlets", self.shape, (2,), 2 ** (self.levels + self.depth - 1))

    def _bank(self, scale: int) -> DirectionalFilterBank:
        height, width = (n >> (scale - 1) for n in self.shape)
        return bank((height, width), max(2, self.depth - (scale - 1) // 2))

    @cached_property
    def layout(self) -> tuple[Band, ...]:
        found = [Band("coarse", tuple(n >> self.levels for n in self.shape), 0)]
        for scale in range(self.levels, 0, -1):
            found += [Band(f"contourlet/{scale}/{b.name}", b.shape, scale) for b in self._bank(scale).layout]
        return tuple(found)

    def _analyse(self, x: Tensor) -> Tensor:
        pair, parts = filter_pair(self.name, "dec", x), []
        for scale in range(1, self.levels + 1):
            low = split(x, pair, 2)[0]
            parts.append(self._bank(scale)._analyse(x - _up(low, pair)))
            x = low
        return torch.cat([x.flatten(1), *reversed(parts)], dim=1)

    def _synthesise(self, flat: Tensor) -> Tensor:
        pair = filter_pair(self.name, "dec", flat)
        sizes = [self._bank(scale).size for scale in range(self.levels, 0, -1)]
        low, *details = flat.split([self.layout[0].size, *sizes], dim=1)
        x = low.unflatten(1, self.layout[0].shape)
        for scale, detail in zip(range(self.levels, 0, -1), details, strict=True):
            d = self._bank(scale)._synthesise(detail)
            x = _up(x, pair) + d - _up(split(d, pair, 2)[0], pair)
        return x


def _up(low: Tensor, pair: Tensor) -> Tensor:
    zero = torch.zeros_like(low)
    return join([low, zero, zero, zero], pair, 2)
