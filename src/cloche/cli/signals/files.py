"""Signals that the commands of `cloche sparse` read and write: pictures, .npy arrays, columns of .csv tables."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cloche.cli.arrays import read_array
from cloche.cli.tables import Table, read_table
from cloche.errors import FieldUnknown, FileMissing, FileUnreadable, FileUnsupported, SettingConflict
from cloche.files import refuse_existing, writing_file
from cloche.missing import extra

if TYPE_CHECKING:
    import numpy as np

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
ARRAYS, TABLES = (".npy", ".npz"), (".csv", ".tsv")


@dataclass(frozen=True, eq=False)
class Signals:
    """`values` [channel, *shape], float64, in units of `full` (255 or 65535 for a picture, else 1).

    If `as_rows`, they are rows [n, d] instead, one signal per row.
    """

    values: np.ndarray
    full: float = 1.0
    table: Table | None = None  # the table that `column` belongs to
    column: int = 0
    as_rows: bool = False


def read(path: Path, column: str | None) -> Signals:
    """The picture or series in a file. Raises ClocheError if the file is missing or contains neither."""
    kind = path.suffix.lower()
    if not path.is_file():
        raise FileMissing(f"There is no file {path}: name a picture, a .npy array or a .csv table.")
    if kind in PICTURES:
        return _picture(path)
    if kind in TABLES:
        return _series(read_table(path), column)
    if kind not in ARRAYS:
        raise FileUnsupported(f"{path} has an unsupported file type: give {', '.join((*PICTURES, *ARRAYS, *TABLES))}.")
    return Signals(read_array(path, column)[None])


def write(path: Path, signals: Signals) -> None:
    """Writes atomically; raises if the path exists."""
    import numpy as np

    refuse_existing(path, "choose another --out")
    kind = path.suffix.lower()
    with writing_file(path) as held:
        if kind == ".npy":
            np.save(held, signals.values[0] if len(signals.values) == 1 else signals.values)
        elif kind in TABLES and signals.table is not None:
            _write_table(held, signals)
        elif kind in PICTURES and signals.values.ndim == 3:
            _write_picture(held, signals)
        else:
            raise SettingConflict(f"{path} cannot store this signal: give --out the type of the input file, or .npy.")


def pillow():
    return extra("PIL.Image", "images", "Pictures need Pillow (a .npy array does not)")


def _picture(path: Path) -> Signals:
    import numpy as np

    image_module = pillow()
    try:
        with image_module.open(path) as image:
            deep = image.mode.startswith("I")
            plain = image if deep or image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")
            values = np.asarray(plain, dtype=np.float64)
    except Exception as error:  # Pillow raises many classes for damaged files
        what = " ".join(str(error).split())[:200]
        raise FileUnreadable(f"{path} cannot be read as a picture ({what}): give another file.") from None
    full = 65535.0 if deep else 255.0
    return Signals((values[None] if values.ndim == 2 else np.moveaxis(values, 2, 0)) / full, full)


def _write_picture(path: Path, signals: Signals) -> None:
    import numpy as np

    kind = np.uint16 if signals.full > 255 else np.uint8
    full = signals.full if signals.full > 1 else 255.0
    pixels = np.rint(np.clip(signals.values, 0, 1) * full).astype(kind)
    pillow().fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, 2)).save(path)


def _series(table: Table, column: str | None) -> Signals:
    if column is None and len(table.numbered) > 1:
        names = ", ".join(table.names[at] for at in table.numbered)
        raise FieldUnknown(f"{table.path} has several columns ({names[:300]}): name one with --column.")
    at = table.numbered[0] if column is None else table.find(column)
    return Signals(table.numbers([at]).T, table=table, column=at)


def _write_table(path: Path, signals: Signals) -> None:
    """Writes the table with new numbers in the column, in the format of the input."""
    table = signals.table
    assert table is not None, "only a table's column is written into a table"
    rows = [list(row) for row in table.rows]
    for row, value in zip(rows, signals.values[0], strict=True):
        row[signals.column] = f"{value:.10g}".replace(".", "," if table.comma else ".")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=table.separator, lineterminator="\n")
        writer.writerows([table.heading, *rows] if table.heading else rows)


def with_values(signals: Signals, values: np.ndarray) -> Signals:
    """The same signals with other numbers."""
    return replace(signals, values=values)
