"""From paths to the files of a corpus, in the same order and with the same names on every machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from cloche.data.reading.compressed import ARCHIVES, COMPRESSED
from cloche.data.reading.reading_report import ReadingReport
from cloche.errors import CorpusEmpty, FileMissing, FileUnreadable, FileUnsupported

TEXT = (".txt", ".md", ".py")
LINES = (".jsonl", ".ndjson", ".jsonlines")
RECORDS = (*LINES, ".json", ".parquet")


@dataclass(frozen=True)
class Source:
    """One file: its path, its name relative to the corpus root, its size on disk."""

    path: Path
    name: str
    size: int
    asked_for: bool  # named outright or by a glob, not merely found in a folder

    @property
    def suffix(self) -> str:
        """The last suffix, ignoring that of a compression, in lower case."""
        return Path(_bare(self.path.name)).suffix.lower()


def find_sources(paths: Sequence[str | Path], glob: str | None, report: ReadingReport) -> list[Source]:
    """The files of a corpus, sorted by name; a name is the path relative to the folder that all `paths` share.

    A file named outright is always read. In folders the files with a known suffix are taken, or those whose name matches
    `glob`; hidden names, __pycache__, links that lead nowhere and second links to the
    same file are skipped and counted. Raises ClocheError for a missing path, an unreadable folder, no file at all.
    """
    paths = [paths] if isinstance(paths, str | Path) else paths
    given = [Path(os.path.abspath(os.path.expanduser(path))) for path in paths]
    if not given:
        raise CorpusEmpty("No corpus is named; give at least one file or folder.")
    for path in given:
        if not os.path.exists(path):
            raise FileMissing(f"There is no file or folder {path}; check its spelling.")
    root = os.path.commonpath([path if path.is_dir() else path.parent for path in given])
    found: dict[str, Source] = {}
    for path in given:
        for file in _walk(path, report) if path.is_dir() else [path]:
            if path.is_dir() and not _wanted(file.relative_to(path).as_posix(), glob):
                report.skip("other suffix" if glob is None else "not in glob")
            elif (source := _source(file, root, file == path, glob is not None, report)) is not None:
                real = os.path.realpath(file)
                if real in found and found[real].path != file:
                    report.skip("same file twice")
                found.setdefault(real, source)
                if source.asked_for:
                    found[real] = replace(found[real], asked_for=True)
    if not found:
        wanted = (
            f"matches {glob!r}"
            if glob
            else f"ends in {', '.join(TEXT + RECORDS)} (or those with {', '.join(COMPRESSED)})"
        )
        raise CorpusEmpty(f"No file in {', '.join(map(str, given))} {wanted}; name other paths or another glob.")
    sources = sorted(found.values(), key=lambda source: source.name)
    report.files, report.size = len(sources), sum(source.size for source in sources)
    return sources


def _walk(folder: Path, report: ReadingReport) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise FileUnreadable(f"The folder {error.filename} cannot be read ({error.strerror}); change its permissions.")

    for place, folders, files in os.walk(folder, onerror=refuse):
        for name in sorted(folders):
            linked = os.path.islink(os.path.join(place, name))
            if linked or name.startswith(".") or name == "__pycache__":
                folders.remove(name)
                report.skip("linked folder" if linked else "hidden or __pycache__")
        folders.sort()
        for name in sorted(files):
            if name.startswith("."):
                report.skip("hidden or __pycache__")
            else:
                yield Path(place, name)


def _wanted(name: str, glob: str | None) -> bool:
    bare = _bare(name)
    if glob is None:
        return bare.lower().endswith(TEXT + RECORDS)
    return any(fnmatchcase(each, glob) for each in (name, bare, Path(name).name, Path(bare).name))


def _bare(name: str) -> str:
    """The name without the suffix of a compression."""
    return name[: name.rindex(".")] if name.lower().endswith(COMPRESSED) else name


def _source(file: Path, root: str, explicit: bool, matched: bool, report: ReadingReport) -> Source | None:
    if not file.is_file():
        if explicit:
            raise FileUnsupported(f"{file} is not a regular file, and it is read twice; save it to a file first.")
        report.skip("no regular file")
        return None
    if file.name.lower().endswith((*ARCHIVES, *(f".tar{each}" for each in COMPRESSED))):
        raise FileUnsupported(f"{file} is an archive, which is not read; unpack it, or compress each file by itself.")
    return Source(file, file.relative_to(root).as_posix(), file.stat().st_size, explicit or matched)
