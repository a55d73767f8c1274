"""Signals as rows, for `cloche sparse learn` and `encode`, and the files of codes and signals that they write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloche.cli.arrays import read_array
from cloche.cli.signals.files import ARRAYS, PICTURES, TABLES, Signals, pillow, read, with_values, write
from cloche.cli.tables import read_table
from cloche.errors import ArgumentRange, EditInvalid, NotFinite, SettingConflict, SignalsShape
from cloche.files import writing_file

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from cloche.sparse import Code
    from cloche.sparse.learners import Tiling


def contents(path: Path, column: str | None) -> Signals:
    """Signals of a file: [channel, h, w] for a picture, [1, n] for a series, or rows [n, d], with `as_rows` set."""
    kind = path.suffix.lower()
    if path.is_file() and kind in TABLES and column is None:
        return Signals(read_table(path).numbers(), as_rows=True)
    if path.is_file() and kind in ARRAYS:
        values = read_array(path, column)
        return Signals(values, as_rows=True) if values.ndim == 2 else Signals(values[None])
    return read(path, column)


def sides_of(given: Signals, piece: int) -> tuple[int, ...]:
    """Sides of the file's pieces; empty if its rows are signals."""
    return () if given.as_rows else (piece,) * (given.values.ndim - 1)


def signals_of(
    files: list[Path], piece: int, count: int, column: str | None, seed: int
) -> tuple[Tensor, tuple[int, ...]]:
    """([n, d] rows or pieces of all files, the sides of the pieces)."""
    import torch

    from cloche.sparse.learners import draw

    for name, amount in (("--piece", piece), ("--count", count)):
        if amount < 1:
            raise ArgumentRange(f"{name} is {amount}, but must be at least 1: choose a larger number.")
    found = {path: contents(path, column) for path in files}
    first, sides = files[0], sides_of(found[files[0]], piece)
    for path, given in found.items():
        if sides_of(given, piece) != sides or (not sides and given.values.shape[1] != found[first].values.shape[1]):
            raise SignalsShape(
                f"{path} and {first} contain signals of different kinds or widths: learn from one kind at a time."
            )
    if not sides:
        return torch.from_numpy(_stack([given.values for given in found.values()])), ()
    drawn = []
    for index, (path, given) in enumerate(found.items()):
        share = max(1, count // len(found) + (index < count % len(found)))
        places = draw(_finite(path, given), sides, share, seed + index)
        drawn.append(places)
    return torch.cat(drawn), sides


def _stack(rows: list[np.ndarray]) -> np.ndarray:
    import numpy as np

    return np.concatenate(rows)


def _finite(path: Path, given: Signals) -> Tensor:
    import torch

    values = torch.from_numpy(given.values)
    if not torch.isfinite(values).all():
        raise NotFinite(f"{path} contains NaN or infinite numbers: fill them in, or leave that part out.")
    return values


@dataclass(frozen=True, eq=False)
class Coded:
    """Signals of a file as rows [n, d] to encode, and the layout of its pieces (None: its rows are the signals)."""

    rows: Tensor
    given: Signals
    tiling: Tiling | None

    @classmethod
    def read(cls, path: Path, column: str | None, sides: tuple[int, ...]) -> Coded:
        """Reads signals for a dictionary of pieces with these `sides`, or of rows if there are none."""
        from cloche.sparse.learners import tiling

        given = contents(path, column)
        values = _finite(path, given)
        if given.as_rows:
            return cls(values, given, None)
        if len(sides) != values.ndim - 1:
            kind = {0: "rows", 1: "pieces of series", 2: "pieces of pictures"}[len(sides)]
            raise EditInvalid(
                f"{path} has signals of shape {list(values.shape[1:])}, but the dictionary is one of {kind}: learn one from "
                "files of this kind."
            )
        tiles = tiling(values, sides)
        return cls(tiles.cut(values), given, tiles)


def save_code(path: Path, code: Code, means: Tensor, coded: Coded) -> None:
    """`indices`, `values` [n, k], `size`, `means` [n]; with pieces also `grid` [channels, ...], `sides` and `shape`."""
    import numpy as np

    held: dict[str, Any] = {
        "indices": code.indices.numpy(),
        "values": code.values.numpy(),
        "size": np.array(code.size),
        "means": means.numpy(),
    }
    if coded.tiling is not None:
        held["grid"] = np.array((coded.tiling.channels, *coded.tiling.grid))
        held["sides"], held["shape"] = np.array(coded.tiling.sides), np.array(coded.tiling.shape)
    _write_atomically(path, lambda fresh: np.savez_compressed(fresh, **held))


def write_rows(path: Path, coded: Coded, rows: Tensor) -> None:
    """Writes decoded signals as a file of the input's type (.npy for rows)."""
    import numpy as np

    if coded.tiling is not None:
        write(path, with_values(coded.given, coded.tiling.join(rows.double()).numpy()))
    elif path.suffix.lower() != ".npy":
        raise SettingConflict(f"{path} cannot store rows of numbers: give --decoded a .npy file.")
    else:
        _write_atomically(path, lambda fresh: np.save(fresh, rows.numpy()))


def save_picture(path: Path, pixels: np.ndarray) -> None:
    """Writes a greyscale picture atomically."""
    if path.suffix.lower() not in PICTURES:
        raise SettingConflict(f"{path} is not a picture file: give --out one of {', '.join(PICTURES)}.")
    image = pillow().fromarray(pixels)
    _write_atomically(path, image.save)


def _write_atomically(path: Path, put: Callable[[Path], object]) -> None:
    """Calls `put` with a temporary file that then replaces `path`."""
    with writing_file(path) as fresh:
        put(fresh)
