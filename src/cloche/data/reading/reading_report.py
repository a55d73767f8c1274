"""Counts of what was met in reading a corpus, so that nothing is dropped or replaced silently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

NAMED = 10  # names kept as examples; the counts are complete


@dataclass
class ReadingReport:
    """Counts of one pass over a corpus; goes into data.json under "sources".

    >>> from pathlib import Path
    >>> from cloche.data import ReadingReport, documents
    >>> _ = Path("empty.txt").write_text(""), Path("full.txt").write_text("words")
    >>> report = ReadingReport()
    >>> [document.text for document in documents(["."], report=report)]
    ['words']
    >>> report.files, report.documents, report.empty
    (2, 1, 1)
    """

    files: int = 0
    documents: int = 0
    empty: int = 0  # files and records without text, left out
    invalid_utf8: int = 0  # byte sequences (or lone surrogates) that became U+FFFD
    invalid_names: list[str] = field(default_factory=list)
    formats: dict[str, int] = field(default_factory=dict)  # how files were read ("text", "JSON lines", ...) -> files
    skipped: dict[str, int] = field(default_factory=dict)  # reason -> files or folders not read
    position: int = 0  # bytes of files read so far, on disk
    size: int = 0  # bytes of all files, on disk

    def skip(self, reason: str) -> None:
        """Counts one file or folder that is not read."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def read_as(self, form: str) -> None:
        """Counts one file by how it is read."""
        self.formats[form] = self.formats.get(form, 0) + 1

    def invalid(self, name: str, count: int) -> None:
        """Counts replaced byte sequences in the named document."""
        self.invalid_utf8 += count
        if count and name not in self.invalid_names and len(self.invalid_names) < NAMED:
            self.invalid_names.append(name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for data.json."""
        return {key: value for key, value in asdict(self).items() if key != "position"}


def merged(reports: Sequence[ReadingReport]) -> ReadingReport:
    """The counts of several reports together."""
    if len(reports) == 1:
        return reports[0]
    whole = ReadingReport()
    for report in reports:
        for name in ("files", "documents", "empty", "invalid_utf8", "position", "size"):
            setattr(whole, name, getattr(whole, name) + getattr(report, name))
        whole.invalid_names = [*whole.invalid_names, *report.invalid_names][:NAMED]
        for counts, more in ((whole.formats, report.formats), (whole.skipped, report.skipped)):
            for key, count in more.items():
                counts[key] = counts.get(key, 0) + count
    return whole
