"""The runs a microscope may show: the one it was opened on and those beside it, and what each folder holds.

Every path that a request can name is looked up here among what exists, never built from the request.
"""

from __future__ import annotations

import json
import threading
import tomllib
from pathlib import Path
from typing import Any

from glasshouse.errors import GlasshouseError
from glasshouse.microscope.columns import clean
from glasshouse.runs import Run


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
        """The folder of a run by name. GlasshouseError when there is none beside the run that was opened."""
        if name is None or name == "" or name == self.home.name:
            return self.home
        if name not in self.names():
            raise GlasshouseError(
                f"There is no run {name!r} beside {self.home.name}: choose one of {', '.join(self.names())}."
            )
        return self.home.parent / name

    def log(self, name: str | None = None) -> Path:
        return self.path(name) / "log"

    def checkpoint(self, run_name: str | None, checkpoint: str) -> Path:
        """The folder of a complete checkpoint. GlasshouseError naming those that exist."""
        path = self.path(run_name)
        names = step_names(path)
        if checkpoint not in names:
            have = f"it has {', '.join(names)}" if names else "it has none yet"
            raise GlasshouseError(f"{path.name} has no checkpoint {checkpoint!r}: {have}.")
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
        """A parsed finding, cleaned for JSON, read again only when its file changed."""
        stamp = path.stat().st_mtime_ns
        with self._lock:
            known = self._findings.get(path)
            if known is None or known[0] != stamp:
                known = (stamp, clean(json.loads(path.read_text())))
                self._findings[path] = known
        return known[1]

    def _newest_first(self, path: Path, instrument: str | None) -> list[Path]:
        files = [p for p in finding_files(path) if instrument in (None, p.parent.name)]
        return sorted(files, key=lambda p: (str(self.finding(p).get("created", "")), p.stem), reverse=True)

    def findings(self, name: str | None = None, instrument: str | None = None) -> list[dict[str, Any]]:
        """What was found, newest first, without the data: instrument, id, of (prompt or dictionary) and the sentence."""
        keys = ("created", "summary", "checkpoint", "plan")
        heads = []
        for file in self._newest_first(self.path(name), instrument):
            found = self.finding(file)
            data = found.get("data") or {}
            of = data.get("prompt") or data.get("dictionary") or file.stem
            head = {"instrument": file.parent.name, "id": file.stem, "of": of}
            heads.append(head | {key: found.get(key) for key in keys})
        return heads

    def find(self, name: str | None, instrument: str, ident: str) -> dict[str, Any]:
        """One finding by instrument and id; `latest` is the newest. GlasshouseError when there is none."""
        files = self._newest_first(self.path(name), instrument)
        for file in files:
            if ident in ("latest", file.stem):
                return self.finding(file) | {"id": file.stem}
        what = f"no {instrument} finding" if ident == "latest" else f"no {instrument} finding {ident!r}"
        raise GlasshouseError(
            f"{self.path(name).name} has {what}: it has {', '.join(f.stem for f in files) or 'none yet'}."
        )
