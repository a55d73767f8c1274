"""Ownership of a folder: a run is created only where nothing else is, locked by one process, and removed without a
trace."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cloche.errors import FileExists, FolderForeign, RunExists
from cloche.files import LOCK, is_abandoned, locked, remove, remove_abandoned, told

TRAINING = f"{LOCK}-training"
FILES = ("run.json", "recipe.toml", "tokenizer.json", "tokenizer_config.json", "manifest.json", "report.html")
FOLDERS = ("data", "log", "checkpoints", "dictionaries", "findings", "lenses")

_held: dict[tuple[int, str], tuple[ExitStack, list[None]]] = {}  # by process and lock: one entry per holder
_guard = threading.Lock()


def refuse_taken(folder: Path) -> None:
    """Raises ClocheError unless a run may be created in `folder`: it is empty, or holds only leftovers of a killed
    creation.

    Nothing is touched.

    >>> from pathlib import Path
    >>> from cloche.runs import refuse_taken
    >>> refuse_taken(Path("not-there-yet"))
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExists(f"{folder} is a file; name a folder for the run")
    if is_half_made(folder):
        return
    names = _names(folder)
    if "run.json" in names and _is_run(folder):
        raise RunExists(
            f"{folder} already holds a run; resume it with `cloche resume {folder}`, or name another folder"
        )
    if names:
        shown = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise FolderForeign(
            f"{folder} has files that do not belong to a run ({shown}), which stay as they are; name a new or empty folder"
        )


def is_half_made(folder: Path) -> bool:
    """Whether the process that was creating a run here was killed before it wrote the recipe: it can only be created
    again."""
    names = _names(folder)
    return "run.json" in names and names <= {"run.json", "manifest.json"} and _is_run(folder)


def _names(folder: Path) -> set[str]:
    with told(folder):
        return {path.name for path in folder.iterdir() if not _is_left_over(path)}


def _is_left_over(path: Path) -> bool:
    return path.name.startswith(LOCK) or is_abandoned(path)


def _is_run(folder: Path) -> bool:
    try:
        info = json.loads((folder / "run.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(info, dict) and "format" in info and "commands" in info


@contextmanager
def held_for_training(folder: Path) -> Iterator[None]:
    """Keeps other processes from training the run in `folder`, and removes leftovers of killed ones.

    Reentrant within this process. Raises ClocheError if another process holds it.
    """
    busy = f"another process is training {folder}; wait until it ends, or stop it"
    with _held_by_process(folder / TRAINING, busy) as first:
        if first:
            _clean(folder)
        yield


@contextmanager
def held_for_dictionary(folder: Path, name: str) -> Iterator[None]:
    """The same for a dictionary of this name in the run in `folder`; the run itself may be trained meanwhile."""
    busy = f"another process is training the dictionary {name} of {folder}; wait until it ends, or choose another name"
    with _held_by_process(folder / f"{LOCK}-dictionary-{name.replace(os.sep, '-')}", busy) as first:
        if first:
            remove_abandoned(folder / "dictionaries")
        yield


@contextmanager
def _held_by_process(lock: Path, busy: str) -> Iterator[bool]:
    """Holds a reentrant lock for this process; yields whether this is the first time."""
    key = (os.getpid(), os.path.realpath(lock))
    with _guard:
        if key not in _held:
            stack = ExitStack()
            stack.enter_context(locked(lock, 0, busy))
            _held[key] = (stack, [])
        stack, holders = _held[key]
        holders.append(None)
    try:
        yield len(holders) == 1
    finally:
        with _guard:
            holders.pop()
            if not holders:
                del _held[key]
                stack.close()


def _clean(run: Path) -> None:
    remove_abandoned(run)
    for name in FOLDERS:
        remove_abandoned(run / name)
    for folder in (run / "findings").glob("*/"):
        remove_abandoned(folder)


@contextmanager
def made(folder: Path) -> Iterator[bool]:
    """Makes `folder` if it is not there (yields whether), and holds it for training: for filling it with a new run."""
    refuse_taken(folder)
    with told(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()
            is_new = True
        except FileExistsError:
            is_new = False
    with held_for_training(folder):
        refuse_taken(folder)  # again, because another process may have been faster
        yield is_new


def undo(folder: Path, is_new: bool) -> None:
    """Removes the files of a run whose creation failed, and its folder if it is new and otherwise empty."""
    for name in (*FILES, *FOLDERS):
        remove(folder / name)
    for path in folder.glob(f"{LOCK}*"):
        remove(path)
    if is_new:
        with contextlib.suppress(OSError):
            folder.rmdir()
