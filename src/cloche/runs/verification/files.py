"""Compares files with what was written down of them, on all cores."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cloche.files import sha256_of_open
from cloche.runs.manifest import Entry, Pending
from cloche.runs.verification.problem import Problem
from cloche.runs.verification.reading import MISSING, UNREADABLE, Unreadable, opened
from cloche.runs.verification.tree import FILE, FOLDER, Tree, shown

RESTORE = "restore it from a copy"


@dataclass(frozen=True)
class Expected:
    """What a file must be: one of these entries (None: not there), or anything that is readable where there are none."""

    entries: tuple[Entry | None, ...]
    fix: str
    is_weights: bool = False  # a safetensors file in which every value must be finite

    @classmethod
    def of(cls, entry: Entry | Pending, fix: str, is_weights: bool = False) -> Expected:
        entries = (entry.new, entry.was) if isinstance(entry, Pending) else (entry,)
        return cls(entries, fix, is_weights)

    def fix_of(self, what: str) -> str:
        """How to fix what is wrong with it."""
        if what.startswith(UNREADABLE):
            return f"make it readable, or {self.fix}"
        return f"{self.fix} (Run.remove is how to remove it)" if what == MISSING and self.fix == RESTORE else self.fix


def compare(tree: Tree, expected: Mapping[str, Expected], hashes: dict[str, str]) -> Iterator[Problem]:
    """The problems of the expected files; `hashes` receives the sha256 of those that are as they were written."""
    names = [path for path in expected if _size(tree, path) is not None]
    names.sort(key=lambda path: -(_size(tree, path) or 0))  # the largest first: no core ends up waiting for it
    with ThreadPoolExecutor(max(1, min(len(names), os.cpu_count() or 1))) as pool:
        seen = dict(zip(names, pool.map(lambda path: _read(tree.root / path, expected[path]), names), strict=True))
    for path in sorted(expected):
        if path in seen:
            hashes[path], what = seen[path]
        else:
            what = _absent(tree, path, expected[path])
        if what:
            yield Problem(shown(path), what, expected[path].fix_of(what))


def _size(tree: Tree, path: str) -> int | None:
    """Bytes of a plain file; None for what is not one."""
    if tree.kinds.get(path) != FILE or tree.hidden_by(path):
        return None
    try:
        return (tree.root / path).lstat().st_size
    except OSError:
        return None


def _absent(tree: Tree, path: str, expected: Expected) -> str | None:
    if tree.hidden_by(path):
        return None  # what hides it is a problem of its own
    kind = tree.kinds.get(path)
    if kind == FOLDER:
        return "is a folder where a file was written"
    if kind not in (None, FILE) or None in expected.entries:
        return None
    return None if os.path.lexists(tree.root / path) and kind is None else MISSING


def _read(path: Path, expected: Expected) -> tuple[str, str | None]:
    """The sha256 of a file, and what is wrong with it as the end of a sentence."""
    known = [entry for entry in expected.entries if entry is not None]
    try:
        with opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            if known and size not in {entry.size for entry in known}:
                return "", f"has {size:,} bytes where {known[0].size:,} were written"
            fault = None
            if expected.is_weights:
                from cloche.runs.verification.weights import hash_and_scan  # numpy, which nothing else here needs

                sha256, fault = hash_and_scan(file, size)
            else:
                sha256 = sha256_of_open(file)
    except Unreadable as error:
        return "", str(error)
    except OSError as error:
        return "", f"{UNREADABLE} ({error.strerror})"
    if known and sha256 not in {entry.sha256 for entry in known}:
        return sha256, "does not have the bytes that were written (sha256 differs)"
    return sha256, fault


def special(tree: Tree) -> Iterator[Problem]:
    """Whatever is neither a file nor a folder, and folders that cannot be listed."""
    for path, kind in tree.kinds.items():
        if kind not in (FILE, FOLDER):
            yield Problem(
                shown(path),
                f"is a {kind}, and a run consists of plain files and folders",
                "put the file itself in its place",
            )
    for path, why in tree.unreadable.items():
        yield Problem(shown(path or "."), f"cannot be read ({why})", "make the folder readable, and verify again")


def foreign(tree: Tree, known: Iterable[str]) -> Iterator[tuple[str, int]]:
    """(path, number of files) of what is not known; a folder in which nothing is known is one of them."""
    files = set(known)
    folders = {parent for path in files for parent in _parents(path)}
    counts: dict[str, int] = {}
    for path, kind in tree.kinds.items():
        if kind == FILE and path not in files:
            top = next((parent for parent in _parents(path) if parent not in folders), path)
            counts[top] = counts.get(top, 0) + 1
    yield from counts.items()


def _parents(path: str) -> list[str]:
    """The folders on the way to a path, the outermost first."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]
