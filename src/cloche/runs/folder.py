"""A run: one folder of plain files with everything that training a model left behind."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cloche import __version__
from cloche.errors import (
    CheckpointMissing,
    ClocheError,
    FileDamaged,
    FileMissing,
    FileUnreadable,
    FolderForeign,
    PathInvalid,
    ResumeRefused,
    RunDamaged,
    RunFormat,
    RunMissing,
    WriteRefused,
)
from cloche.files import (
    LOCK,
    locked,
    recover,
    remove,
    remove_abandoned,
    remove_at_once,
    to_json,
    write_atomically,
    writing_folder,
)
from cloche.runs import logs, manifest
from cloche.runs.checkpoints import Checkpoint, list_checkpoints, step_of, write_checkpoint
from cloche.runs.frames import data_frame
from cloche.runs.making import held_for_dictionary, held_for_training, is_half_made, made, undo
from cloche.runs.manifest import Entry
from cloche.runs.models import not_a_run
from cloche.runs.records import RunInfo

FORMAT = 2
_LOG_NAME = re.compile(r"[a-z0-9_-]+")
_ENGINES = ("torch", "numpy", "tokenizers", "safetensors")


class Run:
    """A handle on a run folder; holds no state of its own but the path, so any number may be open at once.

    >>> run = cloche.Run.create("first", recipe="", seed=0, command=["cloche", "pretrain"])
    >>> cloche.Run.open("first").info["seed"], run.checkpoints()
    (0, [])
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @classmethod
    def create(
        cls,
        path: Path | str,
        recipe: str,
        seed: int = 0,
        command: Sequence[str] = (),
        parent: dict[str, str] | None = None,
    ) -> Run:
        """Creates the folder with recipe.toml and run.json: see `making`."""
        with cls.making(path, recipe, seed, command, parent) as run:
            return run

    @classmethod
    @contextmanager
    def making(
        cls,
        path: Path | str,
        recipe: str,
        seed: int = 0,
        command: Sequence[str] = (),
        parent: dict[str, str] | None = None,
    ) -> Iterator[Run]:
        """Creates the folder with recipe.toml and run.json, and locks it for training until the block ends.

        `parent` is the lineage of a run that starts from another's weights: {"run": ..., "checkpoint": ...}. Raises
        ClocheError, before anything is touched, for a folder that holds a run or anything else, or that another process is
        making one in. A ClocheError in the block removes the folder again, unless there is something to continue
        from: a checkpoint, or packed data if a write error ended it.
        """
        run = cls(path)
        with made(run.path) as is_new:
            try:
                run.begin(recipe, seed, command, parent)
                yield run
            except ClocheError as error:
                kept = isinstance(error, WriteRefused) and (run.path / "data").exists()
                if not kept and not run.checkpoints():
                    undo(run.path, is_new)
                raise

    def begin(
        self, recipe: str | None, seed: int, command: Sequence[str] = (), parent: dict[str, str] | None = None
    ) -> None:
        """Writes what every run begins with into an empty folder; an adopted run has no recipe."""
        info: RunInfo = {
            "format": FORMAT,
            "cloche": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seed": seed,
            "versions": {"python": platform.python_version(), **_versions(_ENGINES)},
            "host": {"cores": os.cpu_count(), "machine": platform.machine(), "system": platform.system()},
            "parent": parent,
            "commands": [list(command)] if command else [],
        }
        written = to_json(info, indent=1)
        write_atomically(self.path / "run.json", written)  # first, because it says whose folder this is
        manifest.create(self.path, {"run.json": Entry.of(written)})
        if recipe is not None:
            self.write_bytes("recipe.toml", recipe.encode())

    def training(self) -> AbstractContextManager[None]:
        """A context in which no other process may train this run: see `held_for_training`."""
        return held_for_training(self.path)

    def training_dictionary(self, name: str) -> AbstractContextManager[None]:
        """A context in which no other process may train a dictionary of this name."""
        return held_for_dictionary(self.path, name)

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """Raises ClocheError where there is no run, or one of a later format."""
        run = cls(path)
        written = run.info.get("format")
        if written != FORMAT:
            fix = (
                "upgrade cloche to open it"
                if isinstance(written, int) and written > FORMAT
                else "it was written by an earlier version: train it again, or load one of its checkpoints as a model"
            )
            raise RunFormat(f"{run.path} is a run of format {written}, and this cloche reads format {FORMAT}; {fix}")
        run.recover()
        return run

    def recover(self) -> None:
        """Restores folders that a killed process was about to replace, on systems that cannot exchange two folders."""
        for folder in (self.path, self.path / "dictionaries", self.path / "lenses"):
            recover(folder)

    @property
    def info(self) -> dict[str, Any]:
        """run.json, read again at each call."""
        if not (self.path / "run.json").is_file():
            raise not_a_run(self.path)
        return _read_object(self.path / "run.json")

    @property
    def adopted(self) -> dict[str, Any] | None:
        """Where a run of a model that was trained elsewhere is from: {"source", "revisions"}; None for one trained here."""
        found = self.info.get("adopted")
        return found if isinstance(found, dict) else None

    @property
    def recipe(self) -> str:
        """The text of recipe.toml. Raises ClocheError for an adopted run, which has none."""
        try:
            return (self.path / "recipe.toml").read_text(encoding="utf-8")
        except FileNotFoundError as error:
            if (adopted := self.adopted) is not None:
                raise ResumeRefused(
                    f"{self.path} was adopted from {adopted.get('source')}, so it has no recipe or optimizer to go on with; "
                    f"start a run from it: cloche pretrain --from {self.path} --out RUN"
                ) from None
            if is_half_made(self.path):
                raise RunMissing(
                    f"{self.path} was cut off while it was being made; make it again with `cloche pretrain --out {self.path}`"
                ) from error
            raise RunDamaged(f"{self.path} has lost its recipe.toml; put it back to go on with this run") from error

    def add_command(self, argv: Sequence[str]) -> None:
        """Appends a command line to run.json, atomically, even with several processes doing so."""
        with self._locked():
            info = self.info
            info["commands"].append(list(argv))
            self._write("run.json", to_json(info, indent=1))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(self.path / LOCK):
            remove_abandoned(self.path)
            yield

    # ---- logs

    def log_path(self, name: str) -> Path:
        if not _LOG_NAME.fullmatch(name):
            raise PathInvalid(f"{name!r} cannot name a log; use small letters, digits, - and _")
        return self.path / "log" / f"{name}.jsonl"

    def log(self, name: str, notify: Callable[[str], object] = logs.warn) -> logs.LogWriter:
        """The writer of log/<name>.jsonl. Raises ClocheError while another writer holds it.

        `notify` is given a sentence when the log was deleted or changed while it was being written.
        """
        return logs.LogWriter(self.log_path(name), notify)

    def read_log(self, name: str) -> list[logs.Record]:
        """All complete records of a log; [] when it is missing. A torn last line is dropped."""
        return logs.read_from(self.log_path(name))[0]

    def frame(self, log: str = "metrics") -> Any:
        """The records of log/<log>.jsonl as a pandas DataFrame. Raises ClocheError where pandas is missing.

        `run.frame("metrics").plot("step", "loss")` draws the training loss.
        """
        return data_frame(self.read_log(log))

    def truncate_logs(self, step: int, name: str = "*") -> int:
        """Drops the records of steps after `step` from every log, or one, each atomically; returns how many went.

        For resuming from the checkpoint of that step. Raises ClocheError while a writer holds a log.
        """
        return sum(logs.truncate(path, step, self._forget_anchors) for path in logs.paths(self.path / "log", name))

    def anchor_logs(self) -> None:
        """Records the state of each log and the list of checkpoints, so that `verify` notices what is lost."""
        with self._locked():
            names = [checkpoint.name for checkpoint in self.checkpoints()]
            manifest.set_anchors(self.path, logs.anchors(self.path / "log"), names)

    def _forget_anchors(self) -> None:
        with self._locked():
            manifest.set_anchors(self.path, {}, [])

    # ---- checkpoints

    def new_checkpoint(self, step: int, past: Path | bool = False) -> AbstractContextManager[Path]:
        """A context that yields a folder to fill and makes it checkpoints/step-000500: see `write_checkpoint`. past: a step
        that the logs have left behind, whose checkpoint says nothing of them; in that folder, if it is a path."""
        folder = past if isinstance(past, Path) else self.path / "checkpoints"
        return write_checkpoint(folder, step, lambda: {} if past else logs.anchors(self.path / "log"))

    def checkpoints(self) -> list[Checkpoint]:
        """The complete checkpoints, by step."""
        return list_checkpoints(self.path / "checkpoints")

    def checkpoint(self, which: str | int = "last") -> Checkpoint:
        """One checkpoint: "last", a step, or a name such as "step-000500".

        Raises ClocheError naming the steps that exist.
        """
        found = self.checkpoints()
        if not found:
            raise CheckpointMissing(f"{self.path} has no checkpoint yet; let it train until its first")
        if which == "last":
            return found[-1]
        step = step_of(which) if isinstance(which, str) and not which.isdecimal() else int(which)
        for checkpoint in found:
            if checkpoint.step == step:
                return checkpoint
        steps = ", ".join(str(checkpoint.step) for checkpoint in found)
        raise CheckpointMissing(f"{self.path} has no checkpoint {which}; it has those of steps {steps}")

    def remove_checkpoint(self, which: str | int) -> None:
        """Removes a checkpoint for good, after recording it in events.jsonl: `verify` reports one that disappears
        otherwise."""
        checkpoint = self.checkpoint(which)
        before = self.read_log("events")
        time = before[-1].get("time") if before else None
        with self.log("events") as log:
            event = {"kind": "removed", "checkpoint": checkpoint.name, "message": f"{checkpoint.name} was removed"}
            log.append({"step": checkpoint.step, "time": time, **event})
        remove_at_once(checkpoint.path)
        self.anchor_logs()

    # ---- files

    def write_bytes(self, relative: str | Path, data: bytes) -> Path:
        """Writes a file inside the folder, atomically, and its hash into manifest.json.

        Raises ClocheError for a path that leads out of the folder, and for a file there that cloche did not write.
        """
        with self._locked():
            target = self._inside(relative)
            if os.path.lexists(target) and manifest.read(self.path) and not self.is_recorded(relative):
                raise FolderForeign(f"{target} exists already, and cloche did not write it; move it away")
            remove_abandoned(target.parent)
            return self._write(relative, data)

    def _write(self, relative: str | Path, data: bytes) -> Path:
        target = self._inside(relative)
        with manifest.recording(self.path, {self._name(target): Entry.of(data)}):
            write_atomically(target, data)
        return target

    def _inside(self, relative: str | Path) -> Path:
        target = self.path / relative
        # `resolve` fails for loops of links
        home, place = (Path(os.path.realpath(path)) for path in (self.path, target))
        if not place.is_relative_to(home) or place == home:
            raise PathInvalid(f"{relative} leads out of {self.path}; name a file inside the run")
        return target

    def _name(self, path: Path) -> str:
        """A path as manifest.json names it."""
        return Path(os.path.realpath(path)).relative_to(os.path.realpath(self.path)).as_posix()

    @contextmanager
    def writing_folder(self, relative: str | Path) -> Iterator[Path]:
        """Yields an empty folder to fill, which then replaces the one of that name, with its hashes in manifest.json.

        For things of several files, such as a dictionary: a reader finds the old one or the new one. Raises
        ClocheError if that would remove a file that cloche did not write.
        """
        target = self._inside(relative)
        name = self._name(target)
        with ExitStack() as settling, writing_folder(target, replace=True) as fresh:
            yield fresh
            new = {f"{name}/{file}": entry for file, entry in manifest.entries_in(fresh).items()}
            settling.enter_context(self._locked())
            changes = dict.fromkeys(manifest.names_under(self.path, name)) | new
            foreign = [path for path in target.rglob("*") if not path.is_dir() and self._name(path) not in changes]
            if foreign:
                raise FolderForeign(
                    f"{foreign[0]} is not a file that cloche wrote, so {target} is not replaced; name another"
                )
            settling.enter_context(manifest.recording(self.path, changes))

    def record(self, *relative: str | Path, known: Mapping[str, str] | None = None) -> None:
        """Adds existing files, or all files of a folder, to manifest.json. `known`: hashes that need not be computed
        again, by path within the run.
        """
        known = known or {}
        found: dict[str, Entry] = {}
        for path in map(self._inside, relative):
            within = manifest.plain_files(path) if path.is_dir() else [path]
            found |= {self._name(file): Entry.of_file(file, known.get(self._name(file))) for file in within}
        with self._locked():
            manifest.record(self.path, found)

    def is_recorded(self, relative: str | Path) -> bool:
        """Whether manifest.json lists a file, or a file in a folder."""
        return bool(manifest.names_under(self.path, self._name(self._inside(relative))))

    def remove(self, relative: str | Path) -> None:
        """Removes a file or folder that cloche wrote, such as a finding or a dictionary, and its entries in
        manifest.json.

        It may have been deleted already; then `verify` stops reporting it. Checkpoints have `remove_checkpoint`.
        """
        target = self._inside(relative)
        name = self._name(target)
        with self._locked():
            gone = manifest.names_under(self.path, name)
            if not gone and not os.path.lexists(target):
                raise FileMissing(
                    f"{self.path} has no {relative}; name a file or folder that is listed in its manifest.json"
                )
            with manifest.recording(self.path, dict.fromkeys(gone)):
                remove(target)

    def write_json(self, relative: str | Path, value: Any) -> Path:
        """`write_bytes` of the value as strict JSON; non-finite floats become null."""
        return self.write_bytes(relative, to_json(value))

    def findings(self, instrument: str | None = None) -> list[dict[str, Any]]:
        """The parsed findings/<instrument>/<id>.json, newest first; [] where there are none."""
        paths = sorted((self.path / "findings").glob("*/*.json"))
        found = [_read_object(path) for path in paths if instrument in (None, path.parent.name)]
        return sorted(found, key=lambda finding: str(finding.get("created", "")), reverse=True)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FileDamaged(f"{path} is not readable as JSON; `cloche verify` says what else is damaged") from error
    except OSError as error:
        raise FileUnreadable(f"{path} cannot be read ({error.strerror}); see `cloche verify`") from error
    if not isinstance(value, dict):
        raise FileDamaged(f"{path} is not a JSON object; `cloche verify` says what else is damaged")
    return value


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
