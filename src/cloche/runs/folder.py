"""A run: one folder of plain files that holds everything a model's growth left behind."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cloche import __version__
from cloche.errors import ClocheError
from cloche.files import LOCK, locked, to_json, write_atomically
from cloche.runs import logs
from cloche.runs.checkpoints import Checkpoint, list_checkpoints, step_of, write_checkpoint

FORMAT = 2
_LOG_NAME = re.compile(r"[a-z0-9_-]+")
_ENGINES = ("torch", "numpy", "tokenizers", "safetensors")


class Run:
    """A handle on a run folder; holds no state of its own but the path, so any number may be open at once."""

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
        """Makes the folder with recipe.toml and run.json. Raises ClocheError for a folder that already holds a run.

        `parent` is the lineage of a run that starts from another's weights: {"run": ..., "checkpoint": ...}.
        """
        run = cls(path)
        if (run.path / "run.json").exists():
            raise ClocheError(
                f"{run.path} already holds a run; resume it with `cloche resume {run.path}`, or name another folder"
            )
        if run.path.exists() and not run.path.is_dir():
            raise ClocheError(f"{run.path} is a file; name a folder for the run")
        write_atomically(run.path / "recipe.toml", recipe.encode())
        info = {
            "format": FORMAT,
            "cloche": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seed": seed,
            "versions": {"python": platform.python_version(), **_versions(_ENGINES)},
            "host": {"cores": os.cpu_count(), "machine": platform.machine(), "system": platform.system()},
            "parent": parent,
            "commands": [list(command)] if command else [],
        }
        write_atomically(run.path / "run.json", to_json(info, indent=1))
        return run

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
            raise ClocheError(f"{run.path} is a run of format {written}, and this cloche reads format {FORMAT}; {fix}")
        return run

    @property
    def info(self) -> dict[str, Any]:
        """run.json, read anew."""
        if not (self.path / "run.json").is_file():
            raise ClocheError(
                f"{self.path} is no run: it holds no run.json; name a folder that `cloche pretrain` or `demo` made"
            )
        return _read_object(self.path / "run.json")

    @property
    def recipe(self) -> str:
        """The text of recipe.toml."""
        try:
            return (self.path / "recipe.toml").read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise ClocheError(f"{self.path} has lost its recipe.toml; put it back to go on with this run") from error

    def add_command(self, argv: Sequence[str]) -> None:
        """Appends a command line to run.json, atomically, also with several processes at it."""
        with self._locked():
            info = self.info
            info["commands"].append(list(argv))
            write_atomically(self.path / "run.json", to_json(info, indent=1))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(self.path / LOCK):
            yield

    # ---- logs

    def log_path(self, name: str) -> Path:
        if not _LOG_NAME.fullmatch(name):
            raise ClocheError(f"{name!r} cannot name a log; use small letters, digits, - and _")
        return self.path / "log" / f"{name}.jsonl"

    def log(self, name: str) -> logs.LogWriter:
        """The writer of log/<name>.jsonl. Raises ClocheError while another writer holds it."""
        return logs.LogWriter(self.log_path(name))

    def read_log(self, name: str) -> list[logs.Record]:
        """All complete records of a log; [] when it is missing. A torn last line is dropped."""
        return logs.read_from(self.log_path(name))[0]

    def truncate_logs(self, step: int) -> int:
        """Drops the records of steps after `step` from every log, each atomically; returns how many went.

        For resuming from the checkpoint of that step. Raises ClocheError while a writer holds a log.
        """
        return sum(logs.truncate(path, step) for path in sorted((self.path / "log").glob("*.jsonl")))

    # ---- checkpoints

    def new_checkpoint(self, step: int) -> AbstractContextManager[Path]:
        """A context that yields a folder to fill and makes it checkpoints/step-000500: see `write_checkpoint`."""
        return write_checkpoint(self.path / "checkpoints", step)

    def checkpoints(self) -> list[Checkpoint]:
        """The complete checkpoints, by step."""
        return list_checkpoints(self.path / "checkpoints")

    def checkpoint(self, which: str | int = "last") -> Checkpoint:
        """One checkpoint: "last", a step, or a name such as "step-000500".

        Raises ClocheError naming the steps that exist.
        """
        found = self.checkpoints()
        if not found:
            raise ClocheError(f"{self.path} has no checkpoint yet; let it train until its first")
        if which == "last":
            return found[-1]
        step = step_of(which) if isinstance(which, str) and not which.isdecimal() else int(which)
        for checkpoint in found:
            if checkpoint.step == step:
                return checkpoint
        steps = ", ".join(str(checkpoint.step) for checkpoint in found)
        raise ClocheError(f"{self.path} has no checkpoint {which}; it has those of steps {steps}")

    # ---- files

    def write_bytes(self, relative: str | Path, data: bytes) -> Path:
        """Writes a file inside the folder, atomically. Raises ClocheError for a path that leads out of it."""
        target = self.path / relative
        if not target.resolve().is_relative_to(self.path.resolve()) or target.resolve() == self.path.resolve():
            raise ClocheError(f"{relative} leads out of {self.path}; name a file inside the run")
        write_atomically(target, data)
        return target

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
    except ValueError as error:
        raise ClocheError(f"{path} is not readable as JSON; `cloche verify` tells what else is damaged") from error
    if not isinstance(value, dict):
        raise ClocheError(f"{path} holds no JSON object; `cloche verify` tells what else is damaged")
    return value


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
