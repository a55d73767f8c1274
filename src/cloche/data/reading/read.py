"""Documents from files: text as it is, records of JSON and parquet by field; streamed, whatever their size."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloche.data.reading import records
from cloche.data.reading.compressed import damage_named, opened_for_seeking
from cloche.data.reading.encoding import UTF8, Tally, checked
from cloche.data.reading.formats import File, opened_as_text, recognise
from cloche.data.reading.pieces import PIECE, cut
from cloche.data.reading.reading_report import ReadingReport
from cloche.data.reading.sources import find_sources
from cloche.errors import CorpusEmpty, FieldUnknown
from cloche.missing import extra

ROWS = 32  # parquet rows read at once: few enough for rows that hold whole books


@dataclass(frozen=True)
class Document:
    """A document, or a piece of one: a huge document comes in pieces that share a name, `last` on the final one.

    The name is the file's path relative to the corpus root; for a record, with "#" and its `number` (line, row or place in
    the array, from 1), which is 0 for a whole file.

    >>> from cloche.data import Document
    >>> Document("letters.jsonl#2", "Dear reader", number=2).last
    True
    """

    name: str
    text: str
    last: bool = True
    number: int = 0

    @property
    def file(self) -> str:
        """The name of its file."""
        return self.name.removesuffix(f"#{self.number}") if self.number else self.name


def documents(
    paths: Sequence[str | Path],
    glob: str | None = None,
    field: str = "text",
    report: ReadingReport | None = None,
    encoding: str | None = None,
) -> Iterator[Document]:
    """Every document of the files and folders, sorted by name, in pieces of at most 1 MiB of UTF-8.

    `glob` picks files inside folders (default: .txt .md .py .jsonl .ndjson .json .parquet, also compressed); `field` is the
    record's text; `encoding` is that of files which are not UTF-8. Compression (.gz .zst .xz .bz2), UTF-16 and UTF-32, JSON
    lines, arrays of records and parquet are recognised by content. `report` is filled while reading: invalid UTF-8 is replaced
    and counted, empty documents are left out and counted. Raises ClocheError for a corpus without files or text, a missing
    field, a malformed record, a damaged file, a file of which more than 1% is not in its encoding.

    >>> from pathlib import Path
    >>> from cloche.data import documents
    >>> _ = Path("letters.jsonl").write_text('{"text": "Dear A"}\\n{"text": "Dear B"}\\n')
    >>> [(document.name, document.text) for document in documents(["letters.jsonl"])]
    [('letters.jsonl#1', 'Dear A'), ('letters.jsonl#2', 'Dear B')]
    """
    report = ReadingReport() if report is None else report
    yield from read_files(recognised_files(paths, glob, field, encoding, report), field, report)


def recognised_files(
    paths: Sequence[str | Path], glob: str | None, field: str, encoding: str | None, report: ReadingReport
) -> Iterator[File]:
    """The files of a corpus and how each is read, lazily; recorded in the report."""
    encoding = checked(encoding)
    sources = find_sources(paths, glob, report)
    for source in sources:
        if (file := recognise(source, field, encoding)) is not None:
            yield file
            continue
        report.skip("JSON without records")
        report.files -= 1
        report.size -= source.size
    if not report.files:
        raise CorpusEmpty(
            "The .json files found hold no records; name those to be read as text outright, or with a glob."
        )


def read_files(files: Iterable[File], field: str, report: ReadingReport) -> Iterator[Document]:
    """The documents of these files, in their order."""
    finished, names = 0, []
    for file in files:
        names.append(str(file.source.path))
        yield from read_file(file, field, report, finished)
        finished += file.source.size
    if not report.documents:
        few = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise CorpusEmpty(f"The corpus is empty: {len(names)} files hold no text ({few}); name other files.")


def read_file(file: File, field: str, report: ReadingReport, finished: int = 0) -> Iterator[Document]:
    """The documents of one file. `finished`: bytes of the files read before it, for the report's position."""
    report.read_as(file.form)
    with damage_named(file.source.path):
        for piece in _READERS[file.kind](file, field, report, finished):
            if piece.text:
                report.documents += piece.last
                yield piece
            else:
                report.empty += 1
    report.position = finished + file.source.size


def _text(file: File, field: str, report: ReadingReport, finished: int) -> Iterator[Document]:
    name, tally = file.source.name, Tally(file.source.path, file.encoding, report)
    with opened_as_text(file.source, file.encoding, tally) as (content, raw):
        held: bytes | None = None
        for data in cut(content):
            if held is not None:
                yield Document(name, tally.decode(held, name), last=False)
            held = data
            report.position = finished + raw.tell()
        text = tally.decode(held or b"", name, end=True)
        tally.check()
        yield Document(name, text)


def _lines(file: File, field: str, report: ReadingReport, finished: int) -> Iterator[Document]:
    source, tally = file.source, Tally(file.source.path, file.encoding, report)
    with opened_as_text(source, file.encoding, tally) as (content, raw):
        for number, line in records.lines(content, str(source.path)):
            where, name = f"{source.path}:{number}", f"{source.name}#{number}"
            record = records.parsed(tally.decode(line, name), where)
            yield from _record(records.text_of(record, field, where), name, number, report)
            report.position = finished + raw.tell()
    tally.check()


def _values(file: File, field: str, report: ReadingReport, finished: int) -> Iterator[Document]:
    source, tally = file.source, Tally(file.source.path, file.encoding, report)
    with opened_as_text(source, file.encoding, tally) as (content, raw):
        found = records.values(content, lambda data: tally.decode(data, source.name), str(source.path))
        for number, record in found:
            text = records.text_of(record, field, f"record {number} of {source.path}")
            yield from _record(text, f"{source.name}#{number}", number, report)
            report.position = finished + raw.tell()
    tally.check()


def _parquet(file: File, field: str, report: ReadingReport, finished: int) -> Iterator[Document]:
    source, tally = file.source, Tally(file.source.path, file.encoding, report)
    pq = extra("pyarrow.parquet", "parquet", "Reading parquet needs pyarrow")
    with opened_for_seeking(source.path) as content, pq.ParquetFile(content, buffer_size=PIECE) as table:
        columns = table.schema_arrow.names
        if field not in columns:
            raise FieldUnknown(
                f"{source.path} has no column {field!r}; its columns are {records.names(columns)}: "
                "name one of them as the field (--field)."
            )
        rows, number = table.metadata.num_rows, 0
        for batch in table.iter_batches(batch_size=ROWS, columns=[field], use_threads=False):
            for value in batch.column(0):
                number += 1
                name = f"{source.name}#{number}"
                text = records.text_of({field: _cell(value, name, tally)}, field, f"row {number} of {source.path}")
                tally.size += len(text)
                yield from _record(text, name, number, report)
            report.position = finished + source.size * number // rows
    tally.check()


def _cell(value: Any, name: str, tally: Tally) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:  # parquet does not check what it calls strings
        data = value.as_buffer().to_pybytes()
        return tally.decode(data, name) if tally.encoding == UTF8 else data.decode(tally.encoding, "replace")


def _record(text: str, name: str, number: int, report: ReadingReport) -> Iterator[Document]:
    text = _without_surrogates(text, name, report)
    if len(text) <= PIECE // 4:  # at most four bytes a character
        yield Document(name, text, number=number)
        return
    pieces = list(cut(io.BytesIO(text.encode())))
    for i, piece in enumerate(pieces):
        yield Document(name, piece.decode(), i == len(pieces) - 1, number)


def _without_surrogates(text: str, name: str, report: ReadingReport) -> str:
    """Resolves surrogates from JSON escapes: pairs are joined, lone ones become U+FFFD and are counted."""
    try:
        text.encode()
    except UnicodeEncodeError:
        joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", errors="replace")
        report.invalid(name, joined.count("\ufffd") - text.count("\ufffd"))
        return joined
    return text


_READERS = {"text": _text, "json": _text, "lines": _lines, "values": _values, "parquet": _parquet}
