"""Pictures of the atoms of learned and fixed dictionaries."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from cloche.errors import SignalsShape
from cloche.sparse.dictionary import Dictionary
from cloche.sparse.transforms.base import Transform

_GAP = 1  # pixels between atoms
_SMALL = 24  # pixels: atoms with shorter sides are enlarged
_CURVE = (48, 32)  # width and height of a one-dimensional atom
_WHITE, _INK, _AXIS = 255, 0, 200


def atoms_of(source: Dictionary | Transform, sides: tuple[int, ...] = ()) -> Tensor:
    """[n, *sides] atoms to draw: all those of a dictionary, or the middle one of each band of a transform. `sides` is the
    shape of an atom; by default a dictionary's atoms are curves [width].

    >>> import torch
    >>> from cloche.sparse import Dictionary, atoms_of
    >>> from cloche.sparse.transforms import Wavelets
    >>> atoms_of(Dictionary(torch.randn(10, 64)), sides=(8, 8)).shape
    torch.Size([10, 8, 8])
    >>> atoms_of(Wavelets((16, 16), "db2", levels=1)).shape
    torch.Size([4, 16, 16])
    """
    if isinstance(source, Dictionary):
        sides = sides or (source.width,)
        if math.prod(sides) != source.width:
            raise SignalsShape(
                f"Atoms of width {source.width} cannot be shaped {list(sides)}: give sides whose product is "
                f"{source.width}."
            )
        return source.atoms.detach().reshape(-1, *sides)
    return torch.stack([source.atom(band.name) for band in source.layout])


def picture(atoms: Tensor, columns: int | None = None) -> np.ndarray:
    """Draws atoms as one grey picture, uint8 [height, width]: images [n, h, w] with zero mid-grey, or curves [n, samples].
    Each atom is scaled by its largest magnitude; `columns` atoms go side by side (None: about a square).

    >>> import torch
    >>> from cloche.sparse import picture
    >>> sheet = picture(torch.tensor([[[-1.0, 0.0, 1.0]]]))
    >>> sheet.shape, sheet[1, [1, 9, 17]].tolist()
    ((10, 26), [0, 128, 255])
    """
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
    """Draws an atom with samples in [-1, 1] as a connected curve."""
    width, height = max(_CURVE[0], min(len(atom), 256)), _CURVE[1]
    at = np.interp(np.linspace(0, len(atom) - 1, width), np.arange(len(atom)), atom)
    y = np.rint((1 - at) / 2 * (height - 1)).astype(int)
    tile = np.full((height, width), _WHITE, np.uint8)
    tile[height // 2] = _AXIS
    for x in range(width):
        before = y[max(x - 1, 0)]
        tile[min(before, y[x]) : max(before, y[x]) + 1, x] = _INK
    return tile
