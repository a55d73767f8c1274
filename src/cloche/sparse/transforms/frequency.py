"""Tight frames cut out of the Fourier plane: a window for each band, each folded into the smallest grid that holds it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from cloche.errors import SettingInvalid
from cloche.sparse.transforms.base import Band, Transform


@dataclass(frozen=True, eq=False)
class Window:
    """A band's part of the plane: `values` [height, width], its grid, and whether it holds one side of the plane only.

    A one-sided window gives complex coefficients, kept as their cosine and sine parts: a band [2, *grid]. A two-sided one
    must be Hermitian and gives real ones.
    """

    name: str
    scale: int
    values: np.ndarray
    grid: tuple[int, int]
    one_sided: bool = False

    @property
    def band(self) -> Band:
        return Band(self.name, (2, *self.grid) if self.one_sided else self.grid, self.scale)


@dataclass(frozen=True, eq=False)
class Tables:
    """Where each window's frequencies come from and fold to, for all windows one after the other."""

    source: Tensor
    target: Tensor
    weight: Tensor
    lengths: tuple[int, ...]


class FrequencyFrame(Transform):
    """A tight frame of bound one: the squared windows sum to one, antipodes of one-sided windows included."""

    shape: tuple[int, int]

    @abstractmethod
    def _windows(self) -> list[Window]: ...

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        return tuple(tightened(self._windows()))

    @cached_property
    def layout(self) -> tuple[Band, ...]:
        return tuple(window.band for window in self.windows)

    def _analyse(self, x: Tensor) -> Tensor:
        tables = tables_of(self, x.dtype, x.device)
        plane = torch.fft.fft2(x, norm="ortho").flatten(1)
        cells = sum(window.grid[0] * window.grid[1] for window in self.windows)
        folded = plane.new_zeros(len(x), cells).index_add(1, tables.target, plane[:, tables.source] * tables.weight)
        parts = []
        for window, piece in zip(self.windows, folded.split(tables.lengths, dim=1), strict=True):
            c = torch.fft.ifft2(piece.unflatten(1, window.grid), norm="ortho")
            parts.append(
                2**0.5 * torch.stack([c.real, c.imag], 1).flatten(1) if window.one_sided else c.real.flatten(1)
            )
        return torch.cat(parts, dim=1)

    def _synthesise(self, flat: Tensor) -> Tensor:
        tables = tables_of(self, flat.dtype, flat.device)
        pieces = []
        for window, part in zip(self.windows, flat.split([band.size for band in self.layout], dim=1), strict=True):
            c = part.unflatten(1, window.band.shape)
            c = 2**0.5 * torch.complex(c[:, 0], c[:, 1]) if window.one_sided else torch.complex(c, torch.zeros_like(c))
            pieces.append(torch.fft.fft2(c, norm="ortho").flatten(1))
        spread = torch.cat(pieces, dim=1)[:, tables.target] * tables.weight.conj()
        plane = spread.new_zeros(len(flat), self.shape[0] * self.shape[1]).index_add(1, tables.source, spread)
        return torch.fft.ifft2(plane.unflatten(1, self.shape), norm="ortho").real


@lru_cache(maxsize=8)
def tables_of(frame: FrequencyFrame, dtype: torch.dtype, device: torch.device) -> Tables:
    height, width = frame.shape
    rows, columns = signed(height)[:, None], signed(width)[None, :]
    source, target, weight, first = [], [], [], 0
    for window in frame.windows:
        at = np.flatnonzero(window.values)
        folded = (rows % window.grid[0]) * window.grid[1] + columns % window.grid[1]
        source.append(at)
        target.append(first + folded.ravel()[at])
        weight.append(window.values.ravel()[at])
        first += window.grid[0] * window.grid[1]
    complex_type = torch.complex64 if dtype == torch.float32 else torch.complex128
    return Tables(
        torch.from_numpy(np.concatenate(source)).to(device),
        torch.from_numpy(np.concatenate(target)).to(device),
        torch.from_numpy(np.concatenate(weight)).to(device, complex_type),
        tuple(window.grid[0] * window.grid[1] for window in frame.windows),
    )


def tightened(windows: list[Window]) -> list[Window]:
    """The same windows, divided by the root of the sum of their squares over the plane (antipodes added for one-sided ones)."""
    total = np.zeros(windows[0].values.shape)
    for window in windows:
        square = np.abs(window.values) ** 2
        total += square + antipode(square) if window.one_sided else square
    if total.min() <= 1e-6:
        raise SettingInvalid(
            "These windows leave frequencies that none of them covers; choose windows that cover the plane."
        )
    return [Window(w.name, w.scale, w.values / np.sqrt(total), w.grid, w.one_sided) for w in windows]


def antipode(plane: np.ndarray) -> np.ndarray:
    """plane(-frequency), in the FFT's order."""
    return np.roll(plane[::-1, ::-1], (1, 1), (0, 1))


def signed(n: int) -> np.ndarray:
    """[n] the integer frequencies, in the FFT's order."""
    return np.rint(np.fft.fftfreq(n) * n).astype(np.int64)


@lru_cache(maxsize=4)
def polar(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(radius in shares of the Nyquist frequency, angle in radians) over the plane."""
    y, x = np.fft.fftfreq(shape[0])[:, None] * 2, np.fft.fftfreq(shape[1])[None, :] * 2
    y, x = np.where(y == -1, 1.0, y), np.where(x == -1, 1.0, x)  # a Nyquist frequency is its own antipode: either sign
    return np.hypot(y, x), np.arctan2(y, x)


def rise(t: np.ndarray) -> np.ndarray:
    """From 0 at t = 0 to 1 at t = 1, with rise(t)^2 + rise(1 - t)^2 = 1 (Meyer's)."""
    t = np.clip(t, 0, 1)
    return np.sin(np.pi / 2 * t**4 * (35 - 84 * t + 70 * t**2 - 20 * t**3))


def smallest_grid(values: np.ndarray) -> tuple[int, int]:
    """The least grid into which the window folds without meeting itself, by rows or by columns first."""
    rows, columns = np.nonzero(values)
    y, x = signed(values.shape[0])[rows], signed(values.shape[1])[columns]

    def extent(lines: np.ndarray, along: np.ndarray) -> tuple[int, int]:
        widths = [np.ptp(along[lines == line]) + 1 for line in np.unique(lines)]
        return int(np.ptp(lines)) + 1, int(max(widths))

    by_rows, by_columns = extent(y, x), extent(x, y)[::-1]
    best = min(by_rows, by_columns, key=lambda grid: grid[0] * grid[1])
    return min(best[0], values.shape[0]), min(best[1], values.shape[1])


def centred_grid(values: np.ndarray) -> tuple[int, int]:
    """The smallest grid for a two-sided window around the origin: odd sides, unless it is the whole plane."""
    sides = []
    for axis in (0, 1):
        inside = np.flatnonzero(values.any(1 - axis))
        reach = int(np.abs(signed(values.shape[axis]))[inside].max())
        sides.append(min(values.shape[axis], 2 * reach + 1))
    return sides[0], sides[1]
