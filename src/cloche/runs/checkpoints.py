"""Checkpoints: folders that appear atomically, each with a manifest to check it against."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloche.files import refuse_existing, sha256_of_all, told, writing_folder
from cloche.runs.chain import Anchor
from cloche.runs.manifest import MANIFEST, Entry, sealed
from cloche.runs.records import CheckpointManifest, LogAnchor

_STEP = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint. Its manifest lists its files, and the state of each log when it was written:
    {"step", "files": {name: {"bytes", "sha256"}}, "logs": {name: {"records", "chain"}}}.

    >>> run = cloche.Run.create("first", recipe="", seed=0, command=["cloche"])
    >>> with run.new_checkpoint(500) as folder:
    ...     _ = (folder / "state.json").write_text("{}")
    >>> checkpoint = run.checkpoint("last")
    >>> checkpoint.name, list(checkpoint.manifest["files"])
    ('step-000500', ['state.json'])
    """

    step: int
    path: Path
    manifest: dict[str, Any] = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.path.name


def checkpoint_name(step: int) -> str:
    """The name of the folder that the checkpoint of a step is kept in.

    >>> from cloche.runs import checkpoint_name
    >>> checkpoint_name(500)
    'step-000500'
    """
    return f"step-{step:06d}"


def step_of(name: str) -> int | None:
    """The step in a checkpoint's name; None for a name of another kind.

    >>> from cloche.runs import step_of
    >>> step_of("step-000500")
    500
    """
    match = _STEP.fullmatch(name)
    return int(match[1]) if match else None


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """The complete checkpoints in a run's `checkpoints` folder, by step. Temporary folders and those without a
    readable manifest are left out (`verify` reports the latter)."""
    found = []
    for path in folder.glob("step-*"):
        step, manifest = step_of(path.name), read_manifest(path)
        if step is not None and manifest is not None:
            found.append(Checkpoint(step, path, manifest))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def read_manifest(checkpoint: Path) -> dict[str, Any] | None:
    """manifest.json as a dict; None when it is missing or is not what `write_checkpoint` wrote."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict) or "step" not in manifest:
        return None
    entries = manifest["files"].values()
    whole = all(isinstance(entry, dict) and isinstance(entry.get("sha256"), str) for entry in entries)
    whole = whole and all(isinstance(entry.get("bytes"), int) for entry in entries)
    return {key: value for key, value in manifest.items() if key != "sha256"} if whole else None


@contextmanager
def write_checkpoint(
    folder: Path, step: int, anchors: Callable[[], Mapping[str, Anchor]] = dict[str, Anchor]
) -> Iterator[Path]:
    """Yields a temporary folder to fill; then writes its manifest, flushes everything and renames it to
    `step-000500`.

    `anchors` is called once the folder is filled, for the state of the logs. On an exception the temporary folder is
    removed. Leftovers of killed processes are removed at the next call; a folder that a running process is filling is
    left alone.
    """
    target = folder / checkpoint_name(step)
    refuse_existing(target, f"move it away to write step {step} again")
    with writing_folder(target) as temporary:
        yield temporary
        _seal(temporary, step, anchors())


def _seal(folder: Path, step: int, anchors: Mapping[str, Anchor]) -> None:
    hashes = sha256_of_all(path for path in folder.rglob("*") if path.is_file())
    files = {
        path.relative_to(folder).as_posix(): Entry.of_file(path, hashes[path]).to_dict() for path in sorted(hashes)
    }
    logs: dict[str, LogAnchor] = {name: {"records": a.records, "chain": a.chain} for name, a in anchors.items()}
    document: CheckpointManifest = {"step": step, "files": files, "logs": logs}
    with (
        told(folder / MANIFEST),
        open(folder / MANIFEST, "xb") as file,
    ):  # never into a file that is there: it may be a link
        file.write(sealed(document))
