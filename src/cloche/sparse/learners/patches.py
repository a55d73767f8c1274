"""Patches of pictures and series: drawn at random for learning, tiled for coding and reassembly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cloche.errors import SignalsShape

Sides = tuple[int, ...]


def draw(whole: Tensor, sides: Sides, count: int, seed: int = 0) -> Tensor:
    """[count, product of sides] pieces of `whole` [channel, *shape] at random places, flattened; they may overlap.

    >>> import torch
    >>> from cloche.sparse.learners import draw
    >>> draw(torch.rand(1, 16, 16), sides=(4, 4), count=10).shape
    torch.Size([10, 16])
    """
    windows = np.lib.stride_tricks.sliding_window_view(_fitting(whole, sides).numpy(), sides, axis=_axes(sides))
    places = windows.shape[: len(sides) + 1]
    rng = np.random.default_rng(seed)
    chosen = windows[tuple(rng.integers(0, n, count) for n in places)]
    return torch.from_numpy(chosen.reshape(count, -1).copy())


@dataclass(frozen=True, eq=False)
class Tiling:
    """Non-overlapping tiling of [channel, *shape] by patches of `sides`, mirrored at the far ends if they do not fit.

    >>> import torch
    >>> from cloche.sparse.learners import Tiling
    >>> x = torch.rand(1, 10, 8)
    >>> tiles = Tiling(channels=1, shape=(10, 8), sides=(4, 4))
    >>> tiles.cut(x).shape, bool((tiles.join(tiles.cut(x)) == x).all())
    (torch.Size([6, 16]), True)
    """

    channels: int
    shape: tuple[int, ...]
    sides: Sides

    @property
    def grid(self) -> tuple[int, ...]:
        """Pieces along each axis."""
        return tuple(-(-n // side) for n, side in zip(self.shape, self.sides, strict=True))

    def cut(self, whole: Tensor) -> Tensor:
        """[channel, *shape] -> [pieces, product of sides]."""
        pad = [
            (0, g * side - n)
            for n, g, side in zip(_fitting(whole, self.sides).shape[1:], self.grid, self.sides, strict=True)
        ]
        full = np.pad(whole.numpy(), [(0, 0), *pad], mode="symmetric")
        split = full.reshape(self.channels, *(n for pair in zip(self.grid, self.sides, strict=True) for n in pair))
        return torch.from_numpy(split.transpose(self._order).reshape(-1, int(np.prod(self.sides))).copy())

    def join(self, pieces: Tensor) -> Tensor:
        """[pieces, product of sides] -> [channel, *shape]."""
        split = pieces.numpy().reshape(self.channels, *self.grid, *self.sides).transpose(np.argsort(self._order))
        full = split.reshape(self.channels, *(g * side for g, side in zip(self.grid, self.sides, strict=True)))
        return torch.from_numpy(full[(slice(None), *(slice(n) for n in self.shape))].copy())

    @property
    def _order(self) -> tuple[int, ...]:
        """Axes of the split array: the channel, the grid's, the pieces' own."""
        axes = range(len(self.sides))
        return (0, *(1 + 2 * a for a in axes), *(2 + 2 * a for a in axes))


def tiling(whole: Tensor, sides: Sides) -> Tiling:
    """The tiling of `whole` [channel, *shape] by pieces of `sides`.

    >>> import torch
    >>> from cloche.sparse.learners import tiling
    >>> tiling(torch.rand(1, 10, 8), sides=(4, 4)).grid
    (3, 2)
    """
    shape = tuple(_fitting(whole, sides).shape)
    return Tiling(shape[0], shape[1:], sides)


def _axes(sides: Sides) -> tuple[int, ...]:
    return tuple(range(1, len(sides) + 1))


def _fitting(whole: Tensor, sides: Sides) -> Tensor:
    if whole.ndim != len(sides) + 1 or any(
        n < side or side < 1 for n, side in zip(whole.shape[1:], sides, strict=False)
    ):
        raise SignalsShape(
            f"Pieces of {' x '.join(map(str, sides))} do not fit a signal of shape {list(whole.shape[1:])}: choose smaller "
            "pieces with as many sides."
        )
    return whole
