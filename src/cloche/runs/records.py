"""What the JSON files of a run folder hold, as types; docs/schemas/ is made from them."""

from __future__ import annotations

from typing import NotRequired

from typing_extensions import TypedDict


class AdoptedRevision(TypedDict):
    """A checkpoint of an adopted run: what its source calls it, its commit on the Hub, the sha256 of its weights by file."""

    checkpoint: str
    revision: str
    commit: NotRequired[str]
    sha256: dict[str, str]


class Adoption(TypedDict):
    """Where a model that was trained elsewhere is from: a folder, or hf://owner/name."""

    source: str
    revisions: list[AdoptedRevision]


class RunInfo(TypedDict):
    """run.json: when, with what and by which command lines a run was made."""

    format: int
    cloche: str
    created: str
    seed: int
    versions: dict[str, str]
    host: dict[str, str | int | None]
    parent: dict[str, str] | None
    commands: list[list[str]]
    adopted: NotRequired[Adoption]


class FileEntry(TypedDict):
    """What a file was written as; while a write is announced and not settled, also what it `was`."""

    bytes: int | None
    sha256: str | None
    was: NotRequired[FileEntry | None]


class LogAnchor(TypedDict):
    """How far a log had come: the number of its records, and the chain of the last."""

    records: int
    chain: str


class RunManifest(TypedDict):
    """manifest.json in the root: every file written outside checkpoints and logs."""

    files: dict[str, FileEntry]
    logs: dict[str, LogAnchor]
    checkpoints: list[str]
    sha256: NotRequired[str]


class CheckpointManifest(TypedDict):
    """checkpoints/*/manifest.json: its files, and how far the logs had come when it was saved."""

    step: int
    files: dict[str, FileEntry]
    logs: dict[str, LogAnchor]
    sha256: NotRequired[str]


class ProblemRecord(TypedDict):
    """One thing about a run folder: where, what, and how to fix it.

    >>> from cloche.runs import ProblemRecord
    >>> ProblemRecord(where="run.json", what="is missing", fix="restore it from a copy")["where"]
    'run.json'
    """

    where: str
    what: str
    fix: str
