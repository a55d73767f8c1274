"""Lines of a log that is being written: read from a cursor in bounded pieces; damaged lines are counted and left out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, BinaryIO

from cloche.errors import ClocheError
from cloche.microscope.folder.reading import RunFiles, parse_json

PIECE_BYTES = 1 << 18
MOST_LINE_BYTES = 1 << 22
_CURSOR = re.compile(r"(\d{1,20})-(\d{1,18})", re.ASCII)
Record = dict[str, Any]


@dataclass(frozen=True)
class Cursor:
    """A position in a log. The inode distinguishes a log that was rewritten, as by a resumed run, from one that grew."""

    inode: int = 0
    offset: int = 0

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """From `inode-offset`; anything else is the start."""
        match = _CURSOR.fullmatch(text) if isinstance(text, str) else None
        return cls(int(match[1]), int(match[2])) if match else cls()

    def __str__(self) -> str:
        return f"{self.inode}-{self.offset}" if self.inode else ""


@dataclass
class Damage:
    """Lines that are not JSON objects: their number, and the position of the first."""

    log: str
    count: int = 0
    first: int = 0

    def add(self, position: int) -> None:
        self.first = position if self.count == 0 else self.first
        self.count += 1

    @property
    def sentence(self) -> str:
        if not self.count:
            return ""
        lines = "a line that is" if self.count == 1 else f"{self.count:,} lines that are"
        at = f"at byte {self.first:,}" if self.count == 1 else f"the first at byte {self.first:,}"
        left = "it is" if self.count == 1 else "they are"
        return f"log/{self.log}.jsonl has {lines} not a JSON object ({at}); {left} left out. See `cloche verify`."


@dataclass(frozen=True)
class Piece:
    """Some complete lines of a log, with their byte offset."""

    data: bytes
    start: int

    def places(self) -> list[tuple[int, int]]:
        """(start, length) of each line, without its line end."""
        lengths = list(map(len, self.data.split(b"\n")[:-1]))
        starts = accumulate((length + 1 for length in lengths[:-1]), initial=self.start)
        return list(zip(starts, lengths, strict=True))


@dataclass
class LogLines:
    """One log of a run, read from where the last reading ended."""

    files: RunFiles
    log: str
    cursor: Cursor = field(default_factory=Cursor)

    @property
    def relative(self) -> str:
        return f"log/{self.log}.jsonl"

    def open(self) -> tuple[BinaryIO | None, int, bool]:
        """(file, its size, whether it was rewritten since). The cursor is reset to the start of a rewritten log."""
        file = self.files.open_file(self.relative)
        if file is None:
            rewritten, self.cursor = self.cursor.inode != 0, Cursor()
            return None, 0, rewritten
        state = os.fstat(file.fileno())
        known = self.cursor.inode != 0
        same = self.cursor.inode == state.st_ino and self.cursor.offset <= state.st_size
        rewritten = known and not (same and _at_line_start(file, self.cursor.offset))
        self.cursor = Cursor(state.st_ino, 0 if rewritten else self.cursor.offset)
        return file, state.st_size, rewritten

    def pieces(self, file: BinaryIO, size: int, damage: Damage) -> Iterator[Piece]:
        """The complete lines from the cursor to `size`, a piece at a time; the cursor moves with them."""
        while (begin := self.cursor.offset) < size:
            file.seek(begin)
            data = file.read(min(PIECE_BYTES, size - begin))
            if b"\n" not in data:
                data += file.read(min(MOST_LINE_BYTES, size - begin) - len(data))
            end = data.rfind(b"\n") + 1
            if end == 0:
                after = _after_newline(file, size)
                if after is None:
                    return
                damage.add(begin)  # a line too long to be a record
                self.cursor = Cursor(self.cursor.inode, after)
                continue
            self.cursor = Cursor(self.cursor.inode, begin + end)
            yield Piece(data[:end], begin)


def _after_newline(file: BinaryIO, size: int) -> int | None:
    """The position after the next line end; None if there is none before `size`."""
    while (at := file.tell()) < size and (data := file.read(min(PIECE_BYTES, size - at))):
        if (newline := data.find(b"\n")) >= 0:
            return at + newline + 1
    return None


def _at_line_start(file: BinaryIO, offset: int) -> bool:
    if offset == 0:
        return True
    file.seek(offset - 1)
    return file.read(1) == b"\n"


def parse_lines(piece: Piece, damage: Damage) -> list[Record]:
    """The record of each line that is a JSON object; the others are counted as damage.

    Undamaged lines are parsed in one call, which takes a third of the time of a call per line.
    """
    try:
        records: list[Record] = json.loads(b"[" + piece.data[:-1].replace(b"\n", b",") + b"]")
        if len(records) == piece.data.count(b"\n") and {dict}.issuperset(map(type, records)):
            return records
    except (ValueError, RecursionError):
        pass
    return [record for _, record in parse_each(piece, damage)]


def parse_each(piece: Piece, damage: Damage) -> Iterator[tuple[tuple[int, int], Record]]:
    """((start, length), record) of each line that is a JSON object; the others are counted as damage."""
    for start, length in piece.places():
        record = parse_line(piece.data[start - piece.start : start - piece.start + length])
        if record is None:
            damage.add(start)
        else:
            yield (start, length), record


def parse_line(line: bytes) -> Record | None:
    """A line's record, cleaned; None if it is not a JSON object within bounds."""
    try:
        record = parse_json(line, "a line", MOST_LINE_BYTES)
    except ClocheError:
        return None
    return record if isinstance(record, dict) else None


def lines_at(files: RunFiles, log: str, places: list[tuple[int, int]]) -> Iterator[Record]:
    """The records of lines given by (start, length); lines that no longer exist are left out."""
    try:
        file = files.open_file(f"log/{log}.jsonl") if places else None
    except ClocheError:  # already reported when the log was read
        return
    if file is None:
        return
    with file:
        for start, length in places:
            file.seek(start)
            record = parse_line(file.read(length))
            if record is not None:
                yield record
