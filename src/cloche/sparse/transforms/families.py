"""The families by name, each made to fit a shape: how many levels it takes, and what must be added at the edges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cloche.errors import PartUnknown, SignalsShape
from cloche.sparse.transforms.bandlets import Bandlets
from cloche.sparse.transforms.base import Transform
from cloche.sparse.transforms.contourlets import Contourlets
from cloche.sparse.transforms.curvelets import Curvelets
from cloche.sparse.transforms.steerable import SteerablePyramid
from cloche.sparse.transforms.wavelets import Wavelets

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Family:
    """`make(shape, levels)` gives the operator; sides must be multiples of 2^(levels + `extra`)."""

    make: Callable[[Shape, int], Transform]
    axes: tuple[int, ...] = (2,)
    extra: int = 0
    free: bool = False  # takes sides of any length


def _sides(shape: Shape) -> tuple[int, int]:
    return shape[0], shape[1]


FAMILIES: dict[str, Family] = {
    "wavelet": Family(lambda shape, levels: Wavelets(shape, "db4", levels), (1, 2)),
    "biorthogonal": Family(lambda shape, levels: Wavelets(shape, "bior4.4", levels), (1, 2)),
    "steerable": Family(lambda shape, levels: SteerablePyramid(_sides(shape), levels), free=True),
    "curvelet": Family(lambda shape, levels: Curvelets(_sides(shape), levels), free=True),
    "contourlet": Family(lambda shape, levels: Contourlets(_sides(shape), levels), extra=2),
    "bandlet": Family(lambda shape, levels: Bandlets(_sides(shape), levels), extra=2),
}


@dataclass(frozen=True)
class Fitted:
    """An operator for signals of `shape`, which it sees as `transform.shape`: mirrored at the far ends where that is larger."""

    transform: Transform
    shape: Shape

    @property
    def padded(self) -> bool:
        return self.transform.shape != self.shape

    def pad(self, x: Tensor) -> Tensor:
        """[*batch, *shape] -> [*batch, *transform.shape]."""
        first = x.ndim - len(self.shape)
        for axis, (n, wanted) in enumerate(zip(self.shape, self.transform.shape, strict=True)):
            if n != wanted:
                at = torch.from_numpy(np.pad(np.arange(n), (0, wanted - n), mode="symmetric"))
                x = x.index_select(first + axis, at.to(x.device))
        return x

    def crop(self, x: Tensor) -> Tensor:
        """[*batch, *transform.shape] -> [*batch, *shape]."""
        for axis, n in enumerate(self.shape, x.ndim - len(self.shape)):
            x = x.narrow(axis, 0, n)
        return x


def fitted(name: str, shape: Shape, levels: int | None = None) -> Fitted:
    """The family `name` for signals of `shape`, at most 4 levels deep unless `levels` says otherwise."""
    family = FAMILIES.get(name)
    if family is None:
        raise PartUnknown(f"There is no dictionary {name!r}: take one of {', '.join(FAMILIES)}.")
    if len(shape) not in family.axes:
        kinds = " or ".join(f"{n}-D" for n in family.axes)
        raise SignalsShape(f"A {name} takes {kinds} signals, not one of shape {list(shape)}: take another dictionary.")
    deepest = int(np.log2(max(2, min(shape)))) - 3
    if deepest < 1:
        raise SignalsShape(
            f"A signal of shape {list(shape)} is too small for a {name}: sides of at least 16 are needed."
        )
    levels = min(4, deepest) if levels is None else levels
    block = 1 if family.free else 2 ** (levels + family.extra)
    return Fitted(family.make(tuple(-(-n // block) * block for n in shape), levels), shape)
