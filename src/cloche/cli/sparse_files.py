"""The signals a verb of `cloche sparse` reads and writes: pictures, .npy arrays, columns of .csv tables."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cloche.errors import ClocheError
from cloche.files import writing_file

if TYPE_CHECKING:
    import numpy as np

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True, eq=False)
class Signals:
    """`values` [channel, *shape], float64, in shares of `full` (255 or 65535 of a picture; 1 of anything else).

    Where `wide` is set they are rows [n, d] instead, a signal each.
    """

    values: np.ndarray
    full: float = 1.0
    rows: tuple[tuple[str, ...], ...] = ()  # of a table, its heading first where it has one
    column: int = 0
    wide: bool = False


def read(path: Path, column: str | None) -> Signals:
    """The signals in a file. Raises ClocheError for a file that is not there, or holds none."""
    import numpy as np

    if not path.is_file():
        raise ClocheError(f"There is no file {path}; name a picture, a .npy array or a .csv table.")
    kind = path.suffix.lower()
    if kind in PICTURES:
        return _picture(path)
    if kind == ".csv":
        return _table(path, column)
    if kind != ".npy":
        raise ClocheError(f"{path} is of no kind that is read here: give {', '.join(PICTURES)}, .npy or .csv.")
    try:
        values = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise ClocheError(f"{path} is no array of numbers ({error}): write it with numpy.save.") from None
    if values.ndim not in (1, 2) or values.dtype.kind not in "iuf":
        raise ClocheError(
            f"{path} holds {values.dtype} of shape {list(values.shape)}: give real numbers, [n] or [h, w]."
        )
    return Signals(values[None].astype(np.float64))


def write(path: Path, signals: Signals) -> None:
    """Under a temporary name beside it, then renamed; refuses a path that is taken."""
    import numpy as np

    if path.exists():
        raise ClocheError(f"{path} is there already, and nothing is overwritten: choose another --out.")
    kind = path.suffix.lower()
    with writing_file(path) as held:
        if kind == ".npy":
            np.save(held, signals.values[0] if len(signals.values) == 1 else signals.values)
        elif kind == ".csv" and signals.rows:
            _write_table(held, signals)
        elif kind in PICTURES and signals.values.ndim == 3:
            _write_picture(held, signals)
        else:
            raise ClocheError(
                f"{path} cannot hold this signal: give --out the kind of the file that was read, or .npy."
            )


def pillow():
    try:
        from PIL import Image
    except ImportError:
        raise ClocheError("Pictures need Pillow: pip install 'cloche[images]', or give a .npy array.") from None
    return Image


def _picture(path: Path) -> Signals:
    import numpy as np

    image_module = pillow()
    try:
        with image_module.open(path) as image:
            deep = image.mode.startswith("I")
            plain = image if deep or image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")
            values = np.asarray(plain, dtype=np.float64)
    except OSError as error:
        raise ClocheError(f"{path} cannot be read as a picture ({error}): give another.") from None
    full = 65535.0 if deep else 255.0
    return Signals((values[None] if values.ndim == 2 else np.moveaxis(values, 2, 0)) / full, full)


def _write_picture(path: Path, signals: Signals) -> None:
    import numpy as np

    kind = np.uint16 if signals.full > 255 else np.uint8
    full = signals.full if signals.full > 1 else 255.0
    pixels = np.rint(np.clip(signals.values, 0, 1) * full).astype(kind)
    pillow().fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, 2)).save(path)


def _table(path: Path, column: str | None) -> Signals:
    import numpy as np

    with path.open(newline="", encoding="utf-8") as file:
        rows = tuple(
            tuple(cell.strip() for cell in row) for row in csv.reader(file) if row and not row[0].startswith("#")
        )
    if len(rows) < 2:
        raise ClocheError(f"{path} has no rows of numbers: give one number or more a line.")
    heading = rows[0] if not all(_number(cell) is not None for cell in rows[0]) else ()
    names = list(heading) or [str(index) for index in range(len(rows[0]))]
    if column is None and len(names) > 1:
        raise ClocheError(f"{path} has several columns ({', '.join(names)}): name one with --column.")
    if column is not None and column not in names:
        raise ClocheError(f"{path} has no column {column!r}; it has {', '.join(names)}.")
    at, values = 0 if column is None else names.index(column), []
    for number, row in enumerate(rows[1 if heading else 0 :], start=1):
        found = _number(row[at]) if at < len(row) else None
        if found is None or not np.isfinite(found):
            raise ClocheError(
                f"Row {number} of {path} holds no number in column {names[at]}: fill it in or leave it out."
            )
        values.append(found)
    return Signals(np.array(values)[None], rows=rows, column=at)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _write_table(path: Path, signals: Signals) -> None:
    rows, values = [list(row) for row in signals.rows], signals.values[0]
    for row, value in zip(rows[len(rows) - len(values) :], values, strict=True):
        row[signals.column] = f"{value:.10g}"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def changed(signals: Signals, values: np.ndarray) -> Signals:
    """The same file with other numbers."""
    return replace(signals, values=values)
