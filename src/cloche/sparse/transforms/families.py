"""Transforms fitted to the shape of a signal: number of levels, and padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cloche.errors import SettingConflict, SignalsShape, shown
from cloche.part import settings_from_line
from cloche.sparse.transforms.base import Transform

Shape = tuple[int, ...]
MOST = 1_024  # levels, directions and the like


@dataclass(frozen=True)
class Fitted:
    """A transform for signals of `shape`, padded to `transform.shape` by mirroring at the far ends.

    >>> import torch
    >>> from cloche.sparse.transforms import fitted
    >>> fit = fitted("wavelet", (50,))
    >>> x = torch.arange(50.0)
    >>> fit.pad(x).shape, bool((fit.crop(fit.pad(x)) == x).all())
    (torch.Size([52]), True)
    """

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


def fitted(text: str, shape: Shape, levels: int | None = None) -> Fitted:
    """The transform of one line, such as "curvelet" or "Wavelets(name='sym8')", made for signals of `shape`.

    At most 4 levels, unless the line or `levels` sets them.

    >>> from cloche.sparse.transforms import fitted
    >>> fit = fitted("Wavelets(name='haar')", (50,), levels=2)
    >>> fit.transform.shape, fit.transform.levels
    ((52,), 2)
    """
    cls, settings = settings_from_line(text, Transform, "dictionary")
    if "shape" in settings:
        raise SettingConflict(f"The shape of {shown(text)} is the signal's, {list(shape)}: leave it out.")
    if len(shape) not in cls.axes:
        kinds = " or ".join(f"{n}-D" for n in cls.axes)
        raise SignalsShape(
            f"{cls.__name__} takes {kinds} signals, not one of shape {list(shape)}: use another dictionary."
        )
    deepest = int(np.log2(max(2, min(shape)))) - 3
    if deepest < 1:
        raise SignalsShape(
            f"A signal of shape {list(shape)} is too small for {cls.__name__}: sides of at least 16 are needed."
        )
    fields = cls.__dataclass_fields__
    if levels is not None or "levels" in fields:
        settings.setdefault("levels", min(4, deepest) if levels is None else levels)
    many = {name: value for name, value in settings.items() if isinstance(value, int) and not 0 < value <= MOST}
    by = 1 if many else cls.multiple({name: settings.get(name, field.default) for name, field in fields.items()})
    if many or by > 2 * max(shape):
        raise SignalsShape(
            f"A signal of shape {list(shape)} is too small for {shown(text)}: use fewer levels or directions."
        )
    return Fitted(cls(tuple(-(-n // by) * by for n in shape), **settings), shape)
