"""Bandlets: wavelets regrouped along the geometry of an image, block by block."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cloche.errors import SettingConflict, SettingRange, SignalsShape
from cloche.sparse.transforms.base import Band, Transform, check_shape
from cloche.sparse.transforms.wavelets import Wavelets, filters

COST = 1.0  # of a coefficient kept, and of a direction told, in squares of the threshold


@dataclass(frozen=True)
class Bandlets(Transform):
    """Orthogonal bandlets (Peyre & Mallat 2005) of images [height, width].

    Each detail band of an orthogonal wavelet basis is cut into blocks of `block` x `block`; a block either stays, or its
    samples are put in order across one of `directions` of the half turn and taken through a 1-D Haar transform. `adapted`
    chooses for each block what costs least: the energy of what a threshold drops, plus threshold^2 for each coefficient kept
    and for a direction told. Blocks are of one size. As made, no block has a direction: these are then the wavelets. `geometry`
    holds a number for each block of each band: -1, or the direction. Sides: multiples of 2^levels * block.

    >>> import torch
    >>> from cloche.sparse.transforms import Bandlets
    >>> transform = Bandlets((32, 32), levels=2)
    >>> x = torch.rand(32, 32, dtype=torch.float64)
    >>> coefficients = transform.analyse(x)
    >>> torch.allclose(transform.synthesise(coefficients), x), round(transform.redundancy, 2)
    (True, 1.0)
    """

    shape: tuple[int, int]
    levels: int = 4
    block: int = 4
    directions: int = 12
    name: str = "db4"
    geometry: tuple[int, ...] = ()

    @classmethod
    def multiple(cls, settings: dict[str, Any]) -> int:
        return int(2 ** settings["levels"] * settings["block"])

    def __post_init__(self) -> None:
        if not np.allclose(*filters(self.name)):
            raise SettingConflict(f"Bandlets need an orthogonal wavelet, not {self.name!r}: take db4.")
        if self.block not in (2, 4, 8) or self.directions < 1 or self.levels < 1:
            raise SettingRange(
                f"Bandlets of {self.levels} levels, blocks of {self.block} and {self.directions} directions cannot be made: "
                "take 1 level or more, blocks of 2, 4 or 8, 1 direction or more."
            )
        check_shape("Bandlets", self.shape, (2,), 2**self.levels * self.block)

    @cached_property
    def _wavelets(self) -> Wavelets:
        return Wavelets(self.shape, self.name, self.levels)

    @cached_property
    def layout(self) -> tuple[Band, ...]:
        return self._wavelets.layout

    def _analyse(self, x: Tensor) -> Tensor:
        return self._along(self._wavelets._analyse(x), inverse=False)

    def _synthesise(self, flat: Tensor) -> Tensor:
        return self._wavelets._synthesise(self._along(flat, inverse=True))

    def adapted(self, x: Tensor, threshold: float) -> Bandlets:
        """These bandlets with the geometry of the image x [height, width]."""
        if x.shape != self.shape or not threshold > 0:
            raise SignalsShape(
                f"The geometry of {list(x.shape)} at a threshold of {threshold:g} cannot be found: give one image of "
                f"{list(self.shape)} and a threshold above zero."
            )
        blocks = self._blocks(self._wavelets._analyse(self._checked(x)[None]).detach())[0]  # [block, block^2]
        bases = matrices(self.block, self.directions).to(blocks)
        costs = [_cost(blocks, threshold)]
        costs += [_cost(blocks @ basis.T, threshold) + COST * threshold**2 for basis in bases]
        return replace(self, geometry=tuple((torch.stack(costs).argmin(0) - 1).tolist()))

    def _along(self, flat: Tensor, inverse: bool) -> Tensor:
        if not self.geometry:
            return flat
        blocks = self._blocks(flat)
        chosen = torch.tensor(self.geometry, device=flat.device)
        bases = matrices(self.block, self.directions).to(blocks)
        done = blocks
        for direction, basis in enumerate(bases):
            at = (chosen == direction).nonzero()[:, 0]
            done = done.index_copy(1, at, blocks[:, at] @ (basis if inverse else basis.T))
        return self._unblocked(flat, done)

    def _blocks(self, flat: Tensor) -> Tensor:
        """[n, blocks of all detail bands, block^2]."""
        found = []
        for band, part in zip(self.layout[1:], self._details(flat), strict=True):
            rows, columns = (side // self.block for side in band.shape)
            cut = part.reshape(-1, rows, self.block, columns, self.block).transpose(2, 3)
            found.append(cut.reshape(len(flat), rows * columns, self.block**2))
        return torch.cat(found, 1)

    def _unblocked(self, flat: Tensor, blocks: Tensor) -> Tensor:
        parts = [flat[:, : self.layout[0].size]]
        counts = [band.size // self.block**2 for band in self.layout[1:]]
        for band, part in zip(self.layout[1:], blocks.split(counts, dim=1), strict=True):
            rows, columns = (side // self.block for side in band.shape)
            parts.append(part.reshape(-1, rows, columns, self.block, self.block).transpose(2, 3).flatten(1))
        return torch.cat(parts, 1)

    def _details(self, flat: Tensor) -> list[Tensor]:
        return list(flat.split([band.size for band in self.layout], dim=1))[1:]


def _cost(coefficients: Tensor, threshold: float) -> Tensor:
    square = coefficients.square()
    return torch.where(square > threshold**2, COST * threshold**2, square).sum(-1)


@lru_cache
def matrices(block: int, directions: int) -> Tensor:
    """[directions, block^2, block^2] orthogonal: samples in order across a direction, then a 1-D Haar transform."""
    y, x = np.mgrid[:block, :block]
    haar = _haar(block**2)
    found = []
    for index in range(directions):
        angle = np.pi * index / directions
        across = np.round(-np.sin(angle) * x + np.cos(angle) * y, 9).ravel()
        along = np.round(np.cos(angle) * x + np.sin(angle) * y, 9).ravel()
        found.append(haar @ np.eye(block**2)[np.lexsort((along, across))])
    return torch.from_numpy(np.stack(found))


def _haar(n: int) -> np.ndarray:
    if n == 1:
        return np.ones((1, 1))
    return np.vstack([np.kron(_haar(n // 2), [1, 1]), np.kron(np.eye(n // 2), [1, -1])]) / np.sqrt(2)
