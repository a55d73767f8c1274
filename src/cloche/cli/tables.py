"""Reader of text tables for all commands, for the formats in which programs and countries write columns of numbers.

Separators `,` `;` tab `|` and spaces; decimal commas unless the separator is a comma; UTF-8, UTF-16 and Latin-1, with or
without a byte-order mark; any line ends; comments after # or %; an optional heading; the index column that pandas and R
write. Errors name the file, the row and the column.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from cloche.errors import FieldUnknown, FileMissing, FileTooLarge, NotFinite, RecordInvalid, shown

if TYPE_CHECKING:
    import numpy as np

SEPARATORS = (",", ";", "\t", "|", " ")
COMMENTS = ("#", "%")
MISSING = {"", "na", "n/a", "nan", "null", "none", "-", "?", "#n/a", "<na>", "."}
INDEX = ("", "unnamed: 0", "rownames")  # names that pandas and R give the column that numbers the rows
LARGEST = 2**31  # bytes
SNIFFED = 200  # rows from which the separator is chosen
_POINT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WORD = re.compile(r"[^\d+\-.,]*[^\W\d_]")  # a letter before any digit or sign
_COMMA = re.compile(r"[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?", re.ASCII)
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHERS = {  # first bytes of files that are not text
    b"\x93NUMPY": "a NumPy array: rename it to end in .npy, or save it as CSV",
    b"PK\x03\x04": "a spreadsheet or another zip file: save it as CSV",
    b"\xd0\xcf\x11\xe0": "a spreadsheet: save it as CSV",
    b"\x1f\x8b": "compressed: unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed: unpack it first",
    b"\xfd7zXZ": "compressed: unpack it first",
    b"PAR1": "a parquet file: save it as CSV",
}


@dataclass(frozen=True)
class Table:
    """The cells of a table as text. `heading` is empty if the first row already contains numbers.

    `separator` and `comma` (whether decimals have one) describe the format of the file, for writing it again.
    """

    path: Path
    heading: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    separator: str = ","
    comma: bool = False
    index: int | None = None  # the column that only numbers the rows

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns: those of the heading, or 0, 1, 2, ..."""
        return self.heading or tuple(str(at) for at in range(len(self.rows[0])))

    @property
    def numbered(self) -> list[int]:
        """Indices of the data columns: all but the index column."""
        return [at for at in range(len(self.names)) if at != self.index]

    def find(self, name: str) -> int:
        """Index of the column with this name. Raises ClocheError if there are none or several."""
        count = self.names.count(name)
        if count == 1:
            return self.names.index(name)
        if count:
            raise FieldUnknown(f"{self.path} has {count} columns called {name!r}: rename all but one.")
        known = ", ".join(self.names[at] for at in self.numbered)
        raise FieldUnknown(f"{self.path} has no column {shown(name)}; it has {known[:300]}.")

    def numbers(self, columns: list[int] | None = None) -> np.ndarray:
        """Numbers [row, column] of these columns, by default of all data columns.

        Raises ClocheError with the row and column of the first cell that is not a finite number.
        """
        import numpy as np

        chosen = self.numbered if columns is None else columns
        return np.array([self._column(at) for at in chosen], dtype=np.float64).T.reshape(len(self.rows), len(chosen))

    def _column(self, at: int) -> list[float]:
        cells = [row[at] for row in self.rows]
        together = "".join(cells)
        if together.isascii() and "_" not in together:
            try:
                values = [float(cell.replace(",", ".")) for cell in cells] if self.comma else [*map(float, cells)]
            except ValueError:
                values = [math.nan]
            if all(map(math.isfinite, values)):
                return values
        return [self._number(cell, row, at) for row, cell in enumerate(cells, start=1)]

    def _number(self, cell: str, row: int, at: int) -> float:
        where = f"Row {row} of {self.path}, column {self.names[at]!r}"
        if cell.lower() in MISSING:
            raise RecordInvalid(f"{where}, has no number: fill it in, or leave that row or column out.")
        if (self.comma and _COMMA.fullmatch(cell)) or _POINT.fullmatch(cell):
            value = float(cell.replace(",", "."))
            if math.isfinite(value):
                return value
        if cell.lower().lstrip("+-") in ("inf", "infinity") or _POINT.fullmatch(cell):
            raise NotFinite(f"{where}, is {shown(cell, 40)}, which is infinite: leave that row or column out.")
        fix = "write it as plain digits with a decimal point, or leave that row or column out"
        raise RecordInvalid(f"{where}, is {shown(cell, 40)}, which is not a number: {fix}.")


def read_table(path: Path) -> Table:
    """The table in a file. Raises ClocheError if it is missing, is not a table, or is ambiguous."""
    text = _text(path)
    lines = [line for line in text.splitlines() if line.strip(" \t,;|\x0c") and not line.lstrip().startswith(COMMENTS)]
    stated = re.fullmatch(r"sep=(.)", lines[0].strip(), re.IGNORECASE) if lines else None  # written by Excel
    if stated:
        lines = lines[1:]
    if not lines:
        raise RecordInvalid(
            f"{path} has no rows of numbers: write one sample per line, its numbers separated by commas."
        )
    separator = stated[1] if stated else _separator(path, lines)
    rows = _split(path, lines, separator)
    rows = _equal_rows(path, rows, named=separator in "\t ")
    table = Table(path, (), tuple(map(tuple, rows)), separator)
    return _with_index(replace(_with_heading(table), comma=_has_commas(path, rows, separator)))


def _text(path: Path) -> str:
    if not path.is_file():
        raise FileMissing(f"There is no file {path}: name a table, such as one in .csv.")
    if path.stat().st_size > LARGEST:
        raise FileTooLarge(f"{path} is larger than 2 GB, and tables are read into memory: save it as a .npy array.")
    data = path.read_bytes()
    for start, what in _OTHERS.items():
        if data.startswith(start):
            if path.suffix.lower() == ".npy":
                what = "a NumPy array, and a table with named columns is needed: save it as CSV"
            raise RecordInvalid(f"{path} is {what}.")
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in data[:4096]:
        encoding = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
    foreign = False
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text, foreign = "\0" if encoding != "utf-8" else data.decode("latin-1"), True
    if any(ord(c) < 32 and c not in "\t\n\r\x0c\x0b\x1c\x1d\x1e" for c in set(text)):
        raise RecordInvalid(f"{path} is not a table of text: save it as CSV in UTF-8.")
    if foreign:
        print(f"{path} is not UTF-8 and is read as Latin-1.", file=sys.stderr)
    return text


def _separator(path: Path, lines: list[str]) -> str:
    """The separator that makes the most cells numbers and the most rows as long as the first; among equals the first of
    SEPARATORS. If none scores above one half, the table has a single column."""
    best, chosen = 0.5, ";"  # a single column may have decimal commas
    for separator in SEPARATORS:
        rows = [row for row in _split(path, lines[:SNIFFED], separator) if row]
        widths = [len(row) for row in rows[1:]] or [len(rows[0])]
        width = max(set(widths), key=widths.count)
        unnamed = separator in "\t " and len(rows[0]) == width - 1
        if width == 1 or not (len(rows[0]) == width or unnamed):
            continue
        cells = [cell for row in rows[1:] or rows for cell in row]
        good = sum(_is_number(cell, separator) or cell.lower() in MISSING for cell in cells) / len(cells)
        score = round(good * widths.count(width) / len(widths), 3)
        if score > best:
            best, chosen = score, separator
    if best == 0.5 and any("," in line for line in lines[:1]):
        return ","  # so that the error is about the usual kind of table
    return chosen


def _split(path: Path, lines: list[str], separator: str) -> list[list[str]]:
    if separator == " ":
        return [[cell.strip('"') for cell in line.split()] for line in lines]
    try:
        read = csv.reader(io.StringIO("\n".join(lines)), delimiter=separator, skipinitialspace=True)
        return [[cell.strip() for cell in row] for row in read]
    except csv.Error as error:
        raise RecordInvalid(f"{path} is not a table ({error}): give every row the same columns.") from None


def _is_number(cell: str, separator: str) -> bool:
    return bool(_POINT.fullmatch(cell)) or (separator != "," and bool(_COMMA.fullmatch(cell)))


def _equal_rows(path: Path, rows: list[list[str]], named: bool) -> list[list[str]]:
    """The rows without a trailing separator. Raises if they have different lengths.

    If `named`, the rows may have names in a column without a heading, as R's write.table writes it.
    """
    while len(rows[0]) > 1 and all(len(row) == len(rows[0]) and not row[-1] for row in rows):
        rows = [row[:-1] for row in rows]
    width = len(rows[0])
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != width:
            if named and number == 2 and all(len(other) == width + 1 for other in rows[1:]):
                return [["", *rows[0]], *rows[1:]]
            raise RecordInvalid(
                f"Line {number} of the table in {path} has {len(row)} cells and its first line {width}: give every row "
                "the same columns."
            )
    return rows


def _has_commas(path: Path, rows: list[list[str]], separator: str) -> bool:
    """Whether decimals are written with commas. Raises if some have commas and others points, since 1.500 would be
    ambiguous."""
    if separator == ",":
        return False
    commas = next((cell for row in rows for cell in row if _COMMA.fullmatch(cell)), None)
    points = next((cell for row in rows for cell in row if "." in cell and _POINT.fullmatch(cell)), None)
    if commas and points:
        raise RecordInvalid(
            f"{path} writes decimals with commas ({commas}) and with points ({points}): use one of them."
        )
    return commas is not None


def _with_heading(table: Table) -> Table:
    """Takes the first row as the heading if one of its cells is a word, rather than a number, missing, or a malformed
    number."""
    first, rest = table.rows[0], table.rows[1:]
    named = any(_WORD.match(cell) and cell.lower() not in MISSING for cell in first)
    counted = [str(at) for at in range(len(first))]
    # pandas names the columns of a plain array 0, 1, 2, ...
    plain = len(first) > 3 and list(first[1:]) == counted[:-1] and not first[0]
    plain = plain or (len(first) > 2 and list(first) == counted and any("." in cell for row in rest for cell in row))
    if not named and not plain:
        return table
    if not rest:
        raise RecordInvalid(f"{table.path} has no rows of numbers: write one sample per line below the heading.")
    return replace(table, heading=first, rows=rest)


def _with_index(table: Table) -> Table:
    """Marks the first column as the index if it has no name and numbers the rows, as pandas and R write it."""
    if len(table.heading) < 2 or table.heading[0].lower() not in INDEX:
        return table
    cells = [row[0] for row in table.rows]
    numbers = [int(cell) for cell in cells if re.fullmatch(r"\d{1,15}", cell)]
    rising = len(numbers) == len(cells) and all(a < b for a, b in pairwise(numbers))
    words = not any(_is_number(cell, table.separator) or cell.lower() in MISSING for cell in cells)
    if rising or words:
        return replace(table, index=0)
    if table.heading[0]:
        return table
    raise FieldUnknown(f"The first column of {table.path} has no name: give it one in the heading.")
