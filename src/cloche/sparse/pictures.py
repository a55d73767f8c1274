"""Pictures of atoms: one way for learned dictionaries and for fixed ones."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from cloche.errors import SignalsShape
from cloche.sparse.dictionary import Dictionary
from cloche.sparse.transforms.base import Transform

_GAP = 1  # pixels between atoms
_SMALL = 24  # sides beneath which an atom's pixels are drawn larger
_CURVE = (48, 32)  # width and height of an atom of one axis
_WHITE, _INK, _AXIS = 255, 0, 200


def atoms_of(source: Dictionary | Transform, sides: tuple[int, ...] = ()) -> Tensor:
    """[n, *sides] the atoms to draw: all of a dictionary, or the middle one of every band of a fixed family."""
    if isinstance(source, Dictionary):
        sides = sides or (source.width,)
        if math.prod(sides) != source.width:
            raise SignalsShape(f"Atoms of width {source.width} are no pieces of {list(sides)}: give their own sides.")
        return source.atoms.detach().reshape(-1, *sides)
    return torch.stack([source.atom(band.name) for band in source.layout])


def picture(atoms: Tensor, columns: int | None = None) -> np.ndarray:
    """uint8 [height, width] of atoms [n, h, w], mid-grey at zero, or of curves [n, samples]; each by its largest magnitude."""
    if atoms.ndim not in (2, 3) or 0 in atoms.shape:
        raise SignalsShape(f"Atoms of shape {list(atoms.shape)} cannot be drawn: give [n, samples] or [n, h, w].")
    array = atoms.detach().cpu().double().numpy()
    top = np.abs(array).reshape(len(array), -1).max(1)
    array = array / np.where(top > 0, top, 1).reshape(-1, *[1] * (array.ndim - 1))
    tiles = np.stack([_curve(a) for a in array]) if array.ndim == 2 else _enlarged(np.rint(127.5 * (1 + array)))
    n, height, width = tiles.shape
    columns = min(n, columns or math.ceil(math.sqrt(n * height / width)))
    rows = -(-n // columns)
    sheet = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP), _WHITE, np.uint8)
    for index, tile in enumerate(tiles):
        y, x = (at * (side + _GAP) + _GAP for at, side in zip(divmod(index, columns), (height, width), strict=True))
        sheet[y : y + height, x : x + width] = tile
    return sheet


def _enlarged(tiles: np.ndarray) -> np.ndarray:
    times = max(1, _SMALL // max(tiles.shape[1:]))
    return tiles.repeat(times, 1).repeat(times, 2).astype(np.uint8)


def _curve(atom: np.ndarray) -> np.ndarray:
    """A curve through the samples of an atom within [-1, 1], an unbroken line."""
    width, height = max(_CURVE[0], min(len(atom), 256)), _CURVE[1]
    at = np.interp(np.linspace(0, len(atom) - 1, width), np.arange(len(atom)), atom)
    y = np.rint((1 - at) / 2 * (height - 1)).astype(int)
    tile = np.full((height, width), _WHITE, np.uint8)
    tile[height // 2] = _AXIS
    for x in range(width):
        before = y[max(x - 1, 0)]
        tile[min(before, y[x]) : max(before, y[x]) + 1, x] = _INK
    return tile
