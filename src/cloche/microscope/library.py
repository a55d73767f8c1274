"""The runs a microscope may show: the one it was opened on and those beside it, and what each folder holds.

Every path that a request can name is looked up here among what exists, never built from the request.
"""

from __future__ import annotations

import json
import threading
import tomllib
from pathlib import Path
from typing import Any

from cloche.errors import ClocheError
from cloche.microscope.columns import clean
from cloche.runs import Run


def step_names(run_path: Path) -> list[str]:
    """The names of the complete checkpoints, in order of their steps."""
    return [checkpoint.name for checkpoint in Run(run_path).checkpoints()]


def question(recipe: str) -> str | None:
    """What the run was to find out, in its recipe's own words; None where the recipe does not say or cannot be read."""
    try:
        asked = tomllib.loads(recipe).get("question", {}).get("ask")
    except (tomllib.TOMLDecodeError, AttributeError):
        return None  # a recipe that was edited by hand must not keep anyone from looking at the run
    return asked if isinstance(asked, str) else None


def finding_files(run_path: Path) -> list[Path]:
    """The findings' JSON files, links that lead out of the run left out."""
    root = (run_path / "findings").resolve()
    return [p for p in sorted(root.glob("*/*.json")) if p.resolve().is_relative_to(root)]


def read_finding(path: Path) -> dict[str, Any]:
    """A finding's JSON, cleaned. ClocheError when it is not what an instrument writes."""
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("data"), dict):
        where = f"findings/{path.parent.name}/{path.name}"
        raise ClocheError(f"{where} cannot be read: move it away, or make the finding again.")
    return clean(found)


class Library:
    """The run, its neighbours in the same parent folder, and a small cache of the findings that were read."""

    def __init__(self, run_path: str | Path) -> None:
        self.run = Run.open(run_path)
        self.home = Path(self.run.path).resolve()
        self._findings: dict[Path, tuple[int, dict[str, Any]]] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """The runs that can be shown: this one first, then those beside it."""
        beside = []
        for path in self.home.parent.iterdir():
            inside = path.resolve().parent == self.home.parent
            if path != self.home and inside and (path / "run.json").is_file():
                beside.append(path.name)
        return [self.home.name, *sorted(beside)]

    def path(self, name: str | None = None) -> Path:
        """The folder of a run by name. ClocheError when there is none beside the run that was opened."""
        if name is None or name == "" or name == self.home.name:
            return self.home
        if name not in self.names():
            raise ClocheError(
                f"There is no run {name!r} beside {self.home.name}: choose one of {', '.join(self.names())}."
            )
        return self.home.parent / name

    def log(self, name: str | None = None) -> Path:
        return self.path(name) / "log"

    def checkpoint(self, run_name: str | None, checkpoint: str) -> Path:
        """The folder of a complete checkpoint. ClocheError naming those that exist."""
        path = self.path(run_name)
        names = step_names(path)
        if checkpoint not in names:
            have = f"it has {', '.join(names)}" if names else "it has none yet"
            raise ClocheError(f"{path.name} has no checkpoint {checkpoint!r}: {have}.")
        return path / "checkpoints" / checkpoint

    def about(self, name: str | None = None) -> dict[str, Any]:
        """run.json, the recipe, data.json, the checkpoints and the neighbours of a run."""
        path = self.path(name)
        run = Run.open(path)
        data = path / "data" / "data.json"
        return {
            "name": path.name,
            "path": str(path),
            "info": run.info,
            "recipe": run.recipe,
            "question": question(run.recipe),
            "data": json.loads(data.read_text()) if data.is_file() else None,
            "checkpoints": step_names(path),
            "runs": self.names(),
            "report": (path / "report.html").is_file(),
        }

    def finding(self, path: Path) -> dict[str, Any]:
        """A parsed finding, cleaned for JSON, read again only when its file changed. ClocheError when it is damaged."""
        stamp = path.stat().st_mtime_ns
        with self._lock:
            known = self._findings.get(path)
            if known is None or known[0] != stamp:
                known = (stamp, read_finding(path))
                self._findings[path] = known
        return known[1]

    def _newest_first(self, path: Path, instrument: str | None) -> tuple[list[Path], list[str]]:
        """The files of the findings that can be read, and a sentence for each that cannot."""
        dated, damaged = [], []
        for file in finding_files(path):
            if instrument in (None, file.parent.name):
                try:
                    dated.append((str(self.finding(file).get("created", "")), file))
                except ClocheError as error:
                    damaged.append(str(error))
        return [file for _, file in sorted(dated, reverse=True)], damaged

    def findings(self, name: str | None = None, instrument: str | None = None) -> dict[str, Any]:
        """What was found, newest first, without the data: instrument, id, of (prompt or dictionary) and the sentence.

        A damaged file keeps nobody from the others: it is told of under `damaged`, a sentence each.
        """
        keys = ("created", "summary", "checkpoint", "plan")
        files, damaged = self._newest_first(self.path(name), instrument)
        heads = []
        for file in files:
            found = self.finding(file)
            of = found["data"].get("prompt") or found["data"].get("dictionary") or file.stem
            head = {"instrument": file.parent.name, "id": file.stem, "of": of}
            heads.append(head | {key: found.get(key) for key in keys})
        return {"findings": heads, "damaged": damaged}

    def find(self, name: str | None, instrument: str, ident: str) -> dict[str, Any]:
        """One finding by instrument and id; `latest` is the newest. ClocheError when there is none."""
        files, _ = self._newest_first(self.path(name), instrument)
        for file in files:
            if ident in ("latest", file.stem):
                return self.finding(file) | {"id": file.stem}
        what = f"no {instrument} finding" if ident == "latest" else f"no {instrument} finding {ident!r}"
        raise ClocheError(
            f"{self.path(name).name} has {what}: it has {', '.join(f.stem for f in files) or 'none yet'}."
        )
