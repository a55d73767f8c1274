"""The runs that a microscope can show, the one it was opened on and those in the same parent folder, and their
contents.

Names in a request are looked up here among existing files, and paths are never built from them; every file is read
through `RunFiles`, which refuses paths that lead outside a run.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from cloche.drawing import Finding
from cloche.errors import CheckpointMissing, ClocheError, FileMissing, InstrumentUnknown, RunMissing
from cloche.microscope.folder.logbook import Logbook
from cloche.microscope.folder.reading import MOST_RECIPE_BYTES, RunFiles, parse_json, words

LOGBOOKS_KEPT = 4
FINDING_BYTES_KEPT = 12 << 20  # size of the files; parsed they take eight times as much
MOST_FINDINGS = 5000
MOST_NEIGHBOURS = 500
MOST_PROMPTS = 3
Record = dict[str, Any]


class Library:
    """The run, its neighbours in the same parent folder, and a cache of what was read."""

    def __init__(self, run_path: str | Path) -> None:
        self.files = RunFiles.open(run_path)
        self.home = self.files.root
        self._findings: OrderedDict[Path, tuple[tuple[int, int], Record]] = OrderedDict()
        self._heads: dict[Path, tuple[tuple[int, int], Record]] = {}
        self._logbooks: OrderedDict[str, Logbook] = OrderedDict()
        self._lock = threading.RLock()

    def names(self) -> list[str]:
        """The runs that can be shown: this one first, then its neighbours."""
        beside = []
        for path in _children(self.home.parent):
            if not path.is_dir():  # nor is a loop of links, which cannot be resolved
                continue
            inside = not path.is_symlink() or path.resolve().parent == self.home.parent
            if path != self.home and inside and RunFiles(path).is_inside("run.json") and (path / "run.json").is_file():
                beside.append(path.name)
        return [self.home.name, *sorted(beside)[:MOST_NEIGHBOURS]]

    def run(self, name: str | None = None) -> RunFiles:
        """A run by name. Raises ClocheError if it is not a neighbour of the opened run, or its folder was removed."""
        if name is None or name == "" or name == self.home.name:
            if not self.home.is_dir():
                raise RunMissing(f"The run folder {self.home} is gone: it was moved or deleted.")
            return self.files
        if name not in self.names():
            known = ", ".join(self.names()[:20])
            raise RunMissing(f"There is no run {words(name, 80)!r} beside {self.home.name}: choose one of {known}.")
        return RunFiles(self.home.parent / name)

    def logbook(self, name: str | None = None) -> Logbook:
        """The logs of a run, cached for the next request."""
        files = self.run(name)
        with self._lock:
            book = self._logbooks.setdefault(files.root.name, Logbook(files))
            self._logbooks.move_to_end(files.root.name)
            while len(self._logbooks) > LOGBOOKS_KEPT:
                self._logbooks.popitem(last=False)
        return book

    def checkpoint(self, run_name: str | None, checkpoint: str) -> Path:
        """The folder of a complete checkpoint without links out of the run. Raises ClocheError, naming the existing
        ones."""
        files = self.run(run_name)
        names = files.checkpoints()
        if checkpoint not in names:
            some = ", ".join(names if len(names) <= 12 else [*names[:5], "…", *names[-5:]])
            have = f"it has {some}" if names else "it has none yet"
            raise CheckpointMissing(f"{files.root.name} has no checkpoint {words(checkpoint, 80)!r}: {have}.")
        files.all_inside(f"checkpoints/{checkpoint}")
        return files.root / "checkpoints" / checkpoint

    def about(self, name: str | None = None) -> dict[str, Any]:
        """run.json, the recipe, data.json, the checkpoints, the dictionaries and the neighbours of a run; under
        `damaged` a sentence for each that cannot be read."""
        files = self.run(name)
        recipe = files.recipe()
        damaged: list[str] = []

        def whole(read: Any, relative: str, *bounds: int) -> Any:
            try:
                return read(relative, *bounds)
            except ClocheError as error:
                damaged.append(str(error))
                return None

        about = {
            "name": files.root.name,
            "path": str(files.path),
            "info": whole(files.object, "run.json") or {},
            "recipe": whole(files.text, "recipe.toml", MOST_RECIPE_BYTES) or "",
            "question": _question(recipe),
            "prompts": self._prompts(name, recipe),
            "data": whole(files.object, "data/data.json"),
            "checkpoints": files.checkpoints(),
            "dictionaries": dictionary_names(files),
            "runs": self.names(),
            "report": has_file(files, "report.html"),
        }
        return about | {"damaged": damaged}

    def _prompts(self, name: str | None, recipe: dict[str, Any]) -> list[str]:
        """Suggested prompts for a model of this run: those it was sampled with, which come from its held-out text."""
        sampled = self.logbook(name).prompts()
        asked = recipe.get("evaluate")
        listed = asked.get("prompts") if isinstance(asked, dict) else None
        written = [p for p in listed if isinstance(p, str) and p] if isinstance(listed, list) else []
        return [words(prompt, 400) for prompt in (sampled or written)[:MOST_PROMPTS]]

    # ---- findings

    def finding(self, files: RunFiles, relative: str) -> Record:
        """A finding, cleaned; read again only if its file changed. Raises ClocheError if it is damaged."""
        path, stamp = _stamped(files, relative)
        with self._lock:
            known = self._findings.get(path)
            if known is None or known[0] != stamp:
                known = (stamp, _read_finding(files, relative))
                self._findings[path] = known
            self._findings.move_to_end(path)
            while sum(size for (_, size), _ in self._findings.values()) > FINDING_BYTES_KEPT:
                self._findings.popitem(last=False)
        return known[1]

    def _head(self, files: RunFiles, relative: str) -> Record:
        """The fields of a finding that a list shows."""
        path, stamp = _stamped(files, relative)
        known = self._heads.get(path)
        if known is None or known[0] != stamp:
            found = self.finding(files, relative)
            data = found["data"]
            of = words(_subject_of(data) or path.stem, 300)
            head: Record = {"instrument": path.parent.name, "id": path.stem, "of": of}
            for key in ("created", "summary", "checkpoint", "plan"):
                head[key] = None if found.get(key) is None else words(found[key], 2000)
            known = self._heads[path] = (stamp, head)
        return known[1]

    def _newest_first(self, files: RunFiles, instrument: str | None) -> tuple[list[tuple[str, Record]], list[str]]:
        """(file, head) of the readable findings, newest first, and a sentence for each unreadable one."""
        dated, damaged = [], []
        for relative in finding_files(files):
            if instrument in (None, relative.split("/")[1]):
                try:
                    head = self._head(files, relative)
                    dated.append((head["created"] or "", relative, head))
                except (ClocheError, OSError) as error:
                    damaged.append(str(error))
        return [(relative, head) for _, relative, head in sorted(dated, key=lambda d: d[:2], reverse=True)], damaged

    def findings(self, name: str | None = None, instrument: str | None = None) -> dict[str, Any]:
        """The findings, newest first, without their data: instrument, id, of (prompt or dictionary) and the
        summary.

        A damaged file does not affect the others: `damaged` has a sentence for each.
        """
        found, damaged = self._newest_first(self.run(name), instrument)
        return {"findings": [head for _, head in found], "damaged": damaged}

    def find(self, name: str | None, instrument: str, ident: str) -> Record:
        """One finding by instrument and id; `latest` is the newest. Raises ClocheError if there is none."""
        files = self.run(name)
        found, damaged = self._newest_first(files, instrument)
        for relative, head in found:
            if ident in ("latest", head["id"]):
                return self.finding(files, relative) | {"id": head["id"]}
        asked = words(instrument, 60)
        what = f"no {asked} finding" if ident == "latest" else f"no {asked} finding {words(ident, 80)!r}"
        have = ", ".join(head["id"] for _, head in found[:20]) or "none yet"
        raise InstrumentUnknown(
            f"{files.root.name} has {what}: it has {have}.{' ' if damaged else ''}{' '.join(damaged[:3])}"
        )


def _subject_of(data: Record) -> Any:
    """What a finding is about, from its data: a prompt, a dictionary, a task or tasks, a file; None if it does not say."""
    tasks = data.get("tasks")
    if isinstance(tasks, list):
        return ", ".join(str(row.get("task")) for row in tasks[:20] if isinstance(row, dict))
    return next((data[key] for key in ("prompt", "dictionary", "task", "file") if data.get(key)), None)


def _stamped(files: RunFiles, relative: str) -> tuple[Path, tuple[int, int]]:
    """The path of a file, and a value that differs once its content does."""
    path = files.file(relative)
    if path is None:
        raise FileMissing(f"{relative} is gone.")
    state = path.stat()
    return path, (state.st_mtime_ns, state.st_size)


def _children(folder: Path) -> list[Path]:
    try:
        return [path for path, _ in zip(folder.iterdir(), range(20 * MOST_NEIGHBOURS), strict=False)]
    except OSError:
        return []


def _question(recipe: dict[str, Any]) -> str | None:
    """The question of the run, from its recipe; None if the recipe has none."""
    asked = recipe.get("question")
    said = asked.get("ask") if isinstance(asked, dict) else None
    return words(said, 1000) if isinstance(said, str) else None


def has_file(files: RunFiles, relative: str) -> bool:
    try:
        return files.file(relative) is not None
    except ClocheError:
        return False


def dictionary_names(files: RunFiles) -> list[str]:
    """The complete dictionaries of a run."""
    found = files.entries("dictionaries")
    return [e.name for e in found if has_file(files, f"dictionaries/{e.name}/dictionary.json")]


def finding_files(files: RunFiles) -> list[str]:
    """The findings' JSON files, relative to the run; files that lead outside are left out."""
    found = []
    for folder in files.entries("findings"):
        for entry in files.entries(f"findings/{folder.name}"):
            if entry.name.endswith(".json") and not entry.name.startswith("."):
                found.append(f"findings/{folder.name}/{entry.name}")
    return found[:MOST_FINDINGS]


def _read_finding(files: RunFiles, relative: str) -> Record:
    """A finding's JSON, cleaned. Raises ClocheError if it is not in the format that instruments write."""
    wrong = f"{relative} cannot be read: move it elsewhere, or run the instrument again."
    data = files.read(relative)
    try:
        found = parse_json(data or b"", relative)
    except ClocheError as error:
        raise InstrumentUnknown(f"{wrong[:-1]} ({error})") from None
    if not isinstance(found, dict) or not isinstance(found.get("data"), dict):
        raise InstrumentUnknown(wrong)
    read = Finding.of_record(found)
    shown = read.record()
    return found | {key: shown[key] for key in ("figures", "null", "panels")} | {"notes": read.notes}
