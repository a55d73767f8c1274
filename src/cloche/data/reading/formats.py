"""Recognises a file by its content: text, JSON records or parquet, and its encoding; the suffix decides unclear
cases."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from cloche.data.reading import records
from cloche.data.reading.compressed import damage_named, opened
from cloche.data.reading.encoding import MARKS, UTF8, Tally, Transcoded, is_utf8_throughout, recognised
from cloche.data.reading.reading_report import ReadingReport
from cloche.data.reading.sources import LINES, Source
from cloche.errors import ClocheError, FieldUnknown

HEAD = 1 << 16  # bytes in which an encoding shows
FORMS = {"text": "text", "lines": "JSON lines", "values": "JSON records", "parquet": "parquet", "json": "JSON as text"}


@dataclass(frozen=True)
class File:
    """A source and how it is read: `kind` is a key of FORMS; `plain`, its bytes on disk are its text in UTF-8."""

    source: Source
    kind: str
    encoding: str
    plain: bool

    @property
    def form(self) -> str:
        """How it is read, in words."""
        return FORMS[self.kind] + ("" if self.encoding == UTF8 else f" in {self.encoding}")


def recognise(source: Source, field: str, encoding: str | None) -> File | None:
    """How to read a file; None for a .json file without records that was found in a folder.

    `encoding` counts for files without a byte order mark that are not valid UTF-8. JSON that is neither lines nor an array of
    objects nor objects with the field is text, in a file named outright and with no other field than "text" asked for.
    """
    with damage_named(source.path):
        with opened(source.path) as (content, raw):
            head = content.read(HEAD)
            packed = content is not raw
        if head.startswith(b"PAR1") or source.suffix == ".parquet":
            return File(source, "parquet", encoding or UTF8, False)
        shown = recognised(head)
        if shown is None and encoding is not None:
            with opened(source.path) as (content, _):
                shown = UTF8 if is_utf8_throughout(content) else encoding
        encoding = shown or UTF8
        kind = _kind(source, field, encoding)
    if kind == "json" and not source.asked_for:
        return None
    if kind == "json" and field != "text":
        raise FieldUnknown(
            f"{source.path} is JSON, but neither lines nor an array of objects, so it has no field {field!r}; "
            "write one object a line."
        )
    return File(source, kind, encoding, not packed and encoding == UTF8)


@contextmanager
def opened_as_text(source: Source, encoding: str, tally: Tally) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The content in UTF-8 without its byte order mark, and the raw file."""
    with opened(source.path) as (content, raw):
        head = content.peek(4)[:4]  # type: ignore[attr-defined]
        content.read(
            max((len(mark) for mark, of in MARKS.items() if of == encoding and head.startswith(mark)), default=0)
        )
        if encoding != UTF8:
            transcoded = Transcoded(content, tally, source.name)
            content = cast(BinaryIO, io.BufferedReader(transcoded, buffer_size=1 << 17))
        yield content, raw


def _kind(source: Source, field: str, encoding: str) -> str:
    unseen = Tally(source.path, encoding, ReadingReport())
    with opened_as_text(source, encoding, unseen) as (stream, _):
        first = _line(stream)
        if first[:1] == b"{" and (record := _object(first)) is not None:
            second = _line(stream)
            if not second and field not in record and source.suffix == ".json" and not source.asked_for:
                return "json"  # settings on one line, found in a folder
            if source.suffix in (*LINES, ".json") or not second or _object(second) is not None:
                return "lines"
            return "text"
    if first[:1] in (b"{", b"["):
        with opened_as_text(source, encoding, unseen) as (stream, _):
            record = _first_value(stream)
        if record is not None and (first[:1] == b"[" or field in record):
            return "values"
    if source.suffix in LINES:
        return "lines"
    return "json" if source.suffix == ".json" and first else "text"


def _line(stream: BinaryIO) -> bytes:
    """The next line that is not blank; empty at the end. A first line that begins no JSON is read only in part."""
    while line := stream.readline(HEAD):
        if line.strip():
            break
    if line.lstrip()[:1] in (b"{", b"[") and not line.endswith(b"\n"):
        line += stream.readline(records.LONGEST)
    return line.strip()


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line.decode(UTF8, "replace"))
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _first_value(stream: BinaryIO) -> dict[str, Any] | None:
    try:
        return next(records.values(stream, lambda data: data.decode(UTF8, "replace"), ""), (0, None))[1]
    except ClocheError:
        return None
