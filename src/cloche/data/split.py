"""Chooses the text held out for validation: whole files where they fit, else the ends of files; never on both sides."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import numpy as np

from cloche.data.reading.formats import File
from cloche.data.reading.pieces import character_end
from cloche.data.reading.read import Document
from cloche.errors import ArgumentInvalid, CorpusEmpty

Validation = float | Sequence[str]  # a share of the bytes, or patterns of file names

# Relative to the requested share: whole files are held out up to MOST; below LEAST, ends of files are added.
LEAST, MOST = 0.4, 2.0
WINDOW = 0.2  # of the share: how much earlier an end may begin, to start at a line or a word
NAMED = 5  # file names in a sentence
KEPT, DENSEST = (
    4 << 20,
    1 / 16,
)  # records of one file to choose from: all of up to 4 million, beyond that a sample this dense


@dataclass(frozen=True)
class Split:
    """How one corpus is divided; `how` says it in words.

    files: names of those held out whole. records: {file: numbers of its records held out}. ends: {document: (first, last)},
    the bytes between which its held-out end begins.
    """

    how: str
    files: frozenset[str] = frozenset()
    records: Mapping[str, frozenset[int]] = field(default_factory=dict)
    ends: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def divide(self, documents: Iterable[Document]) -> Iterator[tuple[str, Document]]:
        """Yields each piece with its side, "train" or "validation". A document with a held-out end is cut in two."""
        name, place = "", 0
        for document in documents:
            if document.name in self.ends:
                place = place if document.name == name else 0
                yield from self._cut(document, place)
                name, place = document.name, place + len(document.text.encode())
            elif document.file in self.files or document.number in self.records.get(document.file, ()):
                yield "validation", document
            else:
                yield "train", document

    def _cut(self, document: Document, place: int) -> Iterator[tuple[str, Document]]:
        """The piece starting at byte `place` of its document, on one side, or cut in two."""
        data = document.text.encode()
        earliest, latest = (bound - place for bound in self.ends[document.name])
        if latest <= 0:
            yield "validation", document
        elif latest >= len(data):
            yield "train", replace(document, last=document.last or latest == len(data))
        else:
            at = _boundary(data, max(earliest, 0), latest)
            yield "train", replace(document, text=data[:at].decode(), last=True)
            if at < len(data):
                yield "validation", replace(document, text=data[at:].decode())


def _boundary(data: bytes, earliest: int, latest: int) -> int:
    """Where to cut: after the last line end between the two places, else before the last space, else between characters."""
    found = data.rfind(b"\n", earliest, latest) + 1
    found = found or max(0, data.rfind(b" ", earliest, latest)) or character_end(data[:latest])
    while found == 0 or (found < len(data) and data[found] & 0xC0 == 0x80):
        found += 1  # into the first character: move behind it
    return found


def plan_split(files: Sequence[File], validation: Validation, read: Callable[[File], Iterable[Document]]) -> Split:
    """Decides the split of these files.

    Patterns hold out whole files. A share holds out whole files in the order of a hash of their names, skipping those that
    would bring the total above twice the share, until it is reached; where that comes to less than 0.4 of the share, also that
    share of every other file: its end, or of a file of records, records chosen in the same way. Bytes are those of
    the text; `read` is called where the size on disk does not tell them. The order of the files does not matter.

    Raises ClocheError when a pattern matches nothing, a share is not between 0 and 1, or a side would be empty.
    """
    if isinstance(validation, (int, float)):
        if not 0 < validation < 1:
            raise ArgumentInvalid(
                f"A validation share of {validation} is not between 0 and 1; 0.05 holds out a twentieth."
            )
        return _plan_share(sorted((_Measured(file, read) for file in files), key=lambda m: m.name), validation)
    validation = (validation,) if isinstance(validation, str) else tuple(validation)
    names = [file.source.name for file in files]
    for pattern in validation:
        if not any(matches(name, pattern) for name in names):
            raise CorpusEmpty(f"No file matches the validation pattern {pattern!r}; the files are {_few(names)}.")
    if not validation:
        raise ArgumentInvalid("No validation file is named; give a share such as 0.05, or patterns of file names.")
    held_out = frozenset(name for name in names if any(matches(name, pattern) for pattern in validation))
    if len(held_out) == len(names):
        raise CorpusEmpty("The validation patterns match every file; leave some to train on.")
    return Split("files that match " + ", ".join(validation), held_out)


def matches(name: str, pattern: str) -> bool:
    """Shell patterns are matched against a file's whole name and its last part."""
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition("/")[2], pattern)


def _rank(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


class _Measured:
    """A file, the bytes of its text, and of its records the numbers, ranks and sizes."""

    def __init__(self, file: File, read: Callable[[File], Iterable[Document]]) -> None:
        self.name, self.size, self.has_records = file.source.name, 0, file.kind in ("lines", "values", "parquet")
        self.numbers, self.ranks, self.sizes = array("q"), array("d"), array("q")
        self._limit = 1.0
        if file.plain and not self.has_records:
            self.size = file.source.size
            return
        record = size = 0
        for document in read(file):
            size += len(document.text.encode())
            record = document.number
            if document.last:
                self._add(record, size)
                size = 0
        self._add(record, size)  # none is left, unless a document did not end

    def _add(self, record: int, size: int) -> None:
        self.size += size
        if self.has_records and size and (rank := _rank(f"{self.name}#{record}")) < self._limit:
            self.numbers.append(record)
            self.ranks.append(rank)
            self.sizes.append(size)
            if len(self.ranks) > KEPT and self._limit > DENSEST:
                self._limit /= 2
                stay = np.frombuffer(self.ranks) < self._limit
                self.numbers = array("q", np.frombuffer(self.numbers, dtype=np.int64)[stay].tobytes())
                self.sizes = array("q", np.frombuffer(self.sizes, dtype=np.int64)[stay].tobytes())
                self.ranks = array("d", np.frombuffer(self.ranks)[stay].tobytes())


def _choose(ranks: Sequence[float], sizes: Sequence[int], total: int, share: float) -> tuple[list[int], int]:
    """What is held out whole, in order of rank, and how many bytes that is: at least `share` of `total`, at most
    MOST."""
    most = total * min(MOST * share, (1 + share) / 2)
    chosen, held = [], 0
    for i in np.argsort(np.asarray(ranks), kind="stable").tolist():
        if held + sizes[i] <= most:
            chosen.append(i)
            held += sizes[i]
            if held >= share * total:
                break
    return chosen, held


def _plan_share(files: list[_Measured], share: float) -> Split:
    files = [file for file in files if file.size]
    total = sum(file.size for file in files)
    chosen, held = _choose([_rank(file.name) for file in files], [file.size for file in files], total, share)
    whole = [files[i].name for i in sorted(chosen)]
    said = [_few(whole)] if whole else []
    records: dict[str, frozenset[int]] = {}
    ends: dict[str, tuple[int, int]] = {}
    if held < LEAST * share * total:
        rest = [file for file in files if file.name not in whole]
        for file in rest:
            held += _plan_file(file, share, records, ends)
        cut = [file.name for file in rest if not file.has_records]
        sampled = [file.name for file in rest if file.has_records]
        said += [f"the last {100 * share:g}% of {_few(cut)}"] if cut else []
        said += [f"records of {_few(sampled)} by hash"] if sampled else []
    return Split(f"{'; '.join(said)} ({held / max(total, 1):.1%} of the bytes)", frozenset(whole), records, ends)


def _plan_file(
    file: _Measured, share: float, records: dict[str, frozenset[int]], ends: dict[str, tuple[int, int]]
) -> int:
    """Adds what is held out of one file to `records` and `ends`; returns about how many bytes that is."""
    if not file.has_records:
        ends[file.name] = _end(file.size, share)
        return file.size - ends[file.name][1]
    chosen, held = _choose(file.ranks, file.sizes, file.size, share)
    records[file.name] = frozenset(file.numbers[i] for i in chosen)
    if held < LEAST * share * file.size:
        for i in set(range(len(file.sizes))) - set(chosen):
            end = _end(file.sizes[i], share)
            ends[f"{file.name}#{file.numbers[i]}"] = end
            held += file.sizes[i] - end[1]
    return held


def _end(size: int, share: float) -> tuple[int, int]:
    latest = size - max(1, round(share * size))
    return latest - round(WINDOW * share * size), latest


def _few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
