"""manifest.json: size and sha256 of every file of a run as it was written, for `verify` to compare.

The file in the root covers all that cloche writes outside `checkpoints/` and `log/`, and records the state of each
log and the list of checkpoints when the trainer last ended:

    {"files": {"run.json": {"bytes": 512, "sha256": "..."}, ...}, "logs": {"metrics": {"records": 40, "chain": "..."}},
     "checkpoints": ["step-000000", ...], "sha256": of the manifest itself without this field}

A write is announced before it happens: until the file is renamed, its entry also says what was there before,
{"bytes", "sha256", "was": {"bytes", "sha256"} or null}. So a kill at any moment leaves a file that matches one of the
two, and the next write settles which.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloche.files import sha256_of, to_json, write_atomically
from cloche.runs.chain import Anchor
from cloche.runs.records import FileEntry, LogAnchor, RunManifest

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Entry:
    """What a file was written as."""

    size: int  # bytes
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> Entry:
        return cls(len(data), hashlib.sha256(data).hexdigest())

    @classmethod
    def of_file(cls, path: Path, sha256: str | None = None) -> Entry:
        """The entry of a file on disk; its hash may be given."""
        return cls(path.stat().st_size, sha256 or sha256_of(path))

    @classmethod
    def parse(cls, value: Any) -> Entry:
        """Raises ValueError for what is not an entry."""
        if not isinstance(value, dict):
            raise ValueError("an entry is an object")
        size, sha256 = value.get("bytes"), value.get("sha256")
        if type(size) is not int or size < 0 or not isinstance(sha256, str) or len(sha256) != 64:
            raise ValueError("an entry has a number of bytes and a sha256")
        return cls(size, sha256)

    def to_dict(self) -> FileEntry:
        return {"bytes": self.size, "sha256": self.sha256}


@dataclass(frozen=True)
class Pending:
    """A file whose write was announced but not yet settled: it is `new`, or still `was`; None means no file."""

    new: Entry | None
    was: Entry | None


@dataclass
class Manifest:
    """The root manifest in memory. Paths are relative to the run, with forward slashes."""

    files: dict[str, Entry | Pending] = field(default_factory=dict)
    logs: dict[str, Anchor] = field(default_factory=dict)
    checkpoints: list[str] = field(default_factory=list)

    def render(self) -> bytes:
        files = {path: _entry_to_dict(self.files[path]) for path in sorted(self.files)}
        logs = {name: _anchor_to_dict(self.logs[name]) for name in sorted(self.logs)}
        document: RunManifest = {"files": files, "logs": logs, "checkpoints": self.checkpoints}
        return sealed(document)

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Raises ValueError for anything but the bytes that `render` gives."""
        document = unsealed(data)
        if not isinstance(document.get("files"), dict) or set(document) != {"files", "logs", "checkpoints"}:
            raise ValueError("it does not list files, logs and checkpoints")
        names = document["checkpoints"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("checkpoints are names")
        if not all(map(is_inside, document["files"])):
            raise ValueError("it lists a file outside the run")
        files = {path: _parse_entry(value) for path, value in document["files"].items()}
        return cls(files, parse_anchors(document["logs"]), names)

    def current(self, path: str) -> Entry | None:
        """The entry that a file was last known to have."""
        entry = self.files.get(path)
        return (entry.new or entry.was) if isinstance(entry, Pending) else entry


def is_inside(path: str) -> bool:
    """Whether a path with forward slashes stays in the folder it is relative to."""
    return all(part not in ("", ".", "..") for part in path.split("/"))


def _entry_to_dict(entry: Entry | Pending) -> FileEntry:
    if isinstance(entry, Entry):
        return entry.to_dict()
    new: FileEntry = entry.new.to_dict() if entry.new else {"bytes": None, "sha256": None}
    return {**new, "was": entry.was.to_dict() if entry.was else None}


def _anchor_to_dict(anchor: Anchor) -> LogAnchor:
    return {"records": anchor.records, "chain": anchor.chain}


def _parse_entry(value: Any) -> Entry | Pending:
    if not isinstance(value, dict) or "was" not in value:
        return Entry.parse(value)
    was = None if value["was"] is None else Entry.parse(value["was"])
    return Pending(None if value.get("sha256") is None else Entry.parse(value), was)


def parse_anchors(value: Any) -> dict[str, Anchor]:
    """Raises ValueError for what is not {log: {"records", "chain"}}."""
    if not isinstance(value, dict):
        raise ValueError("logs is an object")
    anchors = {}
    for name, item in value.items():
        if not isinstance(item, dict) or set(item) != {"records", "chain"}:
            raise ValueError("a log has a number of records and a chain")
        records, link = item["records"], item["chain"]
        if type(records) is not int or not isinstance(link, str):
            raise ValueError("a log has a number of records and a chain")
        anchors[name] = Anchor(records, link)
    return anchors


# ---- documents that carry their own hash


def sealed(document: Mapping[str, Any]) -> bytes:
    """A JSON document with the sha256 of its other fields as its last."""
    return to_json({**document, "sha256": hashlib.sha256(to_json(document)).hexdigest()}, indent=1) + b"\n"


def unsealed(data: bytes) -> dict[str, Any]:
    """The document without its hash. Raises ValueError unless `data` is, byte for byte, what `sealed` made of it."""
    try:
        document = json.loads(data)
        if isinstance(document, dict) and document.pop("sha256", None) and sealed(document) == data:
            return document
    except RecursionError:
        pass
    raise ValueError("it is not as it was written")


# ---- the file in the root of a run; changing it needs the run's lock


def create(run: Path, files: Mapping[str, Entry]) -> None:
    """The manifest of a run that has these files and no others."""
    write_atomically(run / MANIFEST, Manifest(dict(files)).render())


def read(run: Path) -> Manifest | None:
    """The manifest; None if it is missing or not as it was written."""
    path = run / MANIFEST
    try:
        return Manifest.parse(path.read_bytes()) if path.is_file() else None  # opening a pipe would wait forever
    except (OSError, ValueError, RecursionError):
        return None


@contextmanager
def recording(run: Path, changes: Mapping[str, Entry | None]) -> Iterator[None]:
    """Announces the new entries of files (None: removed), lets the caller write them, and settles the entries.

    A missing or damaged manifest is left alone, for `verify` to report: a new one would hide what the old one knew.
    """
    manifest = read(run)
    if manifest is None:
        yield
        return
    _settle(run, manifest, [path for path, entry in manifest.files.items() if isinstance(entry, Pending)])
    for path, entry in changes.items():
        manifest.files[path] = Pending(entry, manifest.current(path))
    write_atomically(run / MANIFEST, manifest.render())
    try:
        yield
    except BaseException:
        _settle(run, manifest, changes)
        raise
    else:
        for path, entry in changes.items():
            _set(manifest, path, entry)
    finally:
        write_atomically(run / MANIFEST, manifest.render())


def record(run: Path, entries: Mapping[str, Entry]) -> None:
    """Adds files that are written already."""
    manifest = read(run)
    if manifest is not None and any(manifest.files.get(path) != entry for path, entry in entries.items()):
        manifest.files.update(entries)
        write_atomically(run / MANIFEST, manifest.render())


def set_anchors(run: Path, anchors: Mapping[str, Anchor], checkpoints: list[str]) -> None:
    """Replaces the recorded state of the logs and the list of checkpoints."""
    manifest = read(run)
    if manifest is not None and (manifest.logs, manifest.checkpoints) != (anchors, checkpoints):
        manifest.logs, manifest.checkpoints = dict(anchors), checkpoints
        write_atomically(run / MANIFEST, manifest.render())


def _settle(run: Path, manifest: Manifest, paths: Iterable[str]) -> None:
    """Checks which of the two an announced file is; one that is neither stays announced, for `verify` to report."""
    for path in paths:
        entry = manifest.files[path]
        assert isinstance(entry, Pending)
        try:
            found = Entry.of_file(run / path) if stat.S_ISREG((run / path).lstat().st_mode) else None
        except FileNotFoundError:
            found = None
        except OSError:
            continue
        if found in (entry.new, entry.was):
            _set(manifest, path, found)


def _set(manifest: Manifest, path: str, entry: Entry | None) -> None:
    if entry is None:
        manifest.files.pop(path, None)
    else:
        manifest.files[path] = entry


# ---- what is on disk


def plain_files(folder: Path) -> list[Path]:
    """The plain files under a folder, temporary ones left out."""
    return sorted(
        Path(parent) / name
        for parent, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".") and stat.S_ISREG((Path(parent) / name).lstat().st_mode)
    )


def entries_in(folder: Path) -> dict[str, Entry]:
    """The entries of a folder's plain files, by their paths within it."""
    return {path.relative_to(folder).as_posix(): Entry.of_file(path) for path in plain_files(folder)}


def names_under(run: Path, name: str) -> list[str]:
    """What the manifest lists at a path or below it."""
    manifest = read(run)
    return [path for path in manifest.files if path == name or path.startswith(f"{name}/")] if manifest else []
