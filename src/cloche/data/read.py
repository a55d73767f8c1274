"""Documents from files: text as it stands, the records of .jsonl and .parquet by field; streamed, whatever their size."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cloche.data.opening import damage_named, opened, opened_for_seeking
from cloche.data.pieces import PIECE, cut, decode, without_surrogates
from cloche.data.report import Report
from cloche.data.sources import Source, find_sources
from cloche.errors import ClocheError

LONGEST_LINE = 64 << 20  # bytes of one .jsonl record: parsing it takes several times as much memory
ROWS = 32  # parquet rows read at once: few enough for rows that hold whole books


@dataclass(frozen=True)
class Document:
    """A document, or a piece of one: a huge document comes in pieces that share a name, `last` on the final one.

    The name is the file's path relative to the corpus root; for a record, with "#" and its line or row (from 1).
    """

    name: str
    text: str
    last: bool = True


def documents(
    paths: Sequence[str | Path], glob: str | None = None, field: str = "text", report: Report | None = None
) -> Iterator[Document]:
    """Every document of the files and folders, sorted by name, in pieces of at most 1 MiB of UTF-8.

    `glob` picks files inside folders (default: .txt .md .py .jsonl .parquet, each also .gz and .zst); `field` is the record's
    text. `report` is filled while reading: invalid UTF-8 is replaced and counted, empty documents are left out and counted.
    Raises ClocheError for a corpus without files or text, a missing field, a malformed record, a damaged file.
    """
    report = Report() if report is None else report
    yield from read_sources(find_sources(paths, glob, report), field, report)


def read_sources(sources: Iterable[Source], field: str, report: Report) -> Iterator[Document]:
    """The documents of these files, in their order."""
    sources = list(sources)
    finished = 0
    for source in sources:
        texts = _READERS[source.kind](source, field, report, finished)
        with damage_named(source.path):
            yield from _counted(texts, report)
        finished += source.size
        report.position = finished
    if not report.documents:
        names = ", ".join(str(source.path) for source in sources[:3]) + (", ..." if len(sources) > 3 else "")
        raise ClocheError(f"The corpus is empty: {len(sources)} files hold no text ({names}); name other files.")


def _counted(pieces: Iterable[Document], report: Report) -> Iterator[Document]:
    for piece in pieces:
        if piece.text:
            report.documents += piece.last
            yield piece
        else:
            report.empty += 1


def _text(source: Source, field: str, report: Report, finished: int) -> Iterator[Document]:
    with opened(source.path) as (content, raw):
        held: str | None = None
        for data in cut(content):
            text = decode(data, source.name, report)
            if held is not None:
                yield Document(source.name, held, last=False)
            held = text.removeprefix("\ufeff") if held is None else text
            report.position = finished + raw.tell()
        yield Document(source.name, held or "")


def _jsonl(source: Source, field: str, report: Report, finished: int) -> Iterator[Document]:
    with opened(source.path) as (content, raw):
        number = 0
        while line := content.readline(LONGEST_LINE):
            number += 1
            where = f"{source.path}:{number}"
            if len(line) == LONGEST_LINE:
                raise ClocheError(f"{where} is longer than 64 MB; write its record in several shorter ones.")
            name = f"{source.name}#{number}"
            if line := line.removeprefix(b"\xef\xbb\xbf").strip():
                text = _field(_parse(decode(line, name, report), where), field, where)
                yield from _record(without_surrogates(text, name, report), name)
            report.position = finished + raw.tell()


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ClocheError(f"{where} is not JSON ({error}); mend or delete that line.") from error
    if not isinstance(record, dict):
        raise ClocheError(f"{where} holds a {type(record).__name__}, not an object with fields; mend that line.")
    return record


def _field(record: dict[str, Any], field: str, where: str) -> str:
    if field not in record:
        raise ClocheError(
            f"{where} has no field {field!r}; its fields are {_names(record)}: name one of them as the field."
        )
    text = record[field]
    if text is not None and not isinstance(text, str):
        raise ClocheError(f"Field {field!r} of {where} holds a {type(text).__name__}, not text; name another field.")
    return text or ""


def _names(fields: Iterable[str]) -> str:
    return ", ".join(fields) or "none"


def _parquet(source: Source, field: str, report: Report, finished: int) -> Iterator[Document]:
    with opened_for_seeking(source.path) as content, pq.ParquetFile(content, buffer_size=PIECE) as file:
        columns = file.schema_arrow.names
        if field not in columns:
            raise ClocheError(
                f"{source.path} has no column {field!r}; its columns are {_names(columns)}: name one of them as the field."
            )
        rows, number = file.metadata.num_rows, 0
        for batch in file.iter_batches(batch_size=ROWS, columns=[field], use_threads=False):
            for value in batch.column(0):
                number += 1
                where = f"row {number} of {source.path}"
                name = f"{source.name}#{number}"
                yield from _record(_field({field: _cell(value, name, report)}, field, where), name)
            report.position = finished + source.size * number // rows


def _cell(value: pa.Scalar, name: str, report: Report) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:  # parquet does not check what it calls strings
        return decode(value.as_buffer().to_pybytes(), name, report)


def _record(text: str, name: str) -> Iterator[Document]:
    if len(text) <= PIECE // 4:  # at most four bytes a character
        yield Document(name, text)
        return
    pieces = list(cut(io.BytesIO(text.encode())))
    for i, piece in enumerate(pieces):
        yield Document(name, piece.decode(), last=i == len(pieces) - 1)


_READERS = {"text": _text, ".jsonl": _jsonl, ".parquet": _parquet}
