"""The course of a verification: what was written down is read first, then the folder, then every byte."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from cloche.errors import ClocheError
from cloche.files import LOCK, REPLACED, WRITING, is_abandoned
from cloche.runs.folder import FORMAT, Run
from cloche.runs.logs import LOGS
from cloche.runs.manifest import MANIFEST, Manifest
from cloche.runs.models import not_a_run
from cloche.runs.verification import checkpoints, documents
from cloche.runs.verification.files import RESTORE, Expected, compare, foreign, special
from cloche.runs.verification.problem import Problem, Verification
from cloche.runs.verification.reading import Unreadable, content
from cloche.runs.verification.records import Source, check_log, missing_logs, saved_checkpoints
from cloche.runs.verification.tree import FILE, FOLDER, Tree, shown

_DATA = "restore it from a copy, or delete data/ and resume: it is made again from the same files"
_OURS = (WRITING, REPLACED, LOCK, ".training-", ".trial-")  # how the names of temporary files begin
_ATTEMPTS = 3


def verify(path: Path | str) -> Verification:
    """Everything that is wrong with a run folder, one line each. Reads every byte that carries a hash, on all cores.

    Nothing is written, links are not followed, and one problem never hides another. A folder that a killed process was about
    to replace gets its name back; what killed writes left under temporary names is a note. A log that a living writer holds
    may end in mid-line; a run may be trained meanwhile. Raises ClocheError where there is no run at all, or one of another
    format.

    >>> run = cloche.Run.create("first", recipe="", seed=0, command=["cloche"])
    >>> cloche.verify("first").problems
    []
    """
    run = Path(path)
    _require_run(run)
    Run(run).recover()
    for _ in range(_ATTEMPTS):
        before = _stamp(run)
        found = _Examination(run).result()
        if not found.problems or _stamp(run) == before:
            break
    return found


def _require_run(run: Path) -> None:
    if not run.is_dir():
        raise not_a_run(run)
    names = ("run.json", MANIFEST, "recipe.toml", "checkpoints", "log")
    if not any(os.path.lexists(run / name) for name in names):
        raise not_a_run(run)
    if not os.path.lexists(run / MANIFEST) and (run / "run.json").is_file():
        try:
            written = Run(run).info.get("format")
        except (ClocheError, OSError):
            return
        if isinstance(written, int) and written != FORMAT:
            Run.open(run)  # which says so


def _stamp(run: Path) -> object:
    """Changes when a file of the run is written by cloche: then what was found may have been a moment's state."""
    try:
        found = (run / MANIFEST).lstat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


class _Examination:
    """One pass over a run."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.problems: list[Problem] = []
        self.manifest = self._manifest()  # before the folder: what appears meanwhile is not missed
        self.tree = Tree.of(run)
        self.checkpoints = checkpoints.read(self.tree)
        self.known = {MANIFEST}
        self.hashes: dict[str, str] = {}

    def result(self) -> Verification:
        self.problems += special(self.tree)
        self.problems += self.checkpoints.problems
        self.problems += self._logs()  # before the bytes are read, which can take minutes
        self.problems += self._files()
        said = {problem.where for problem in self.problems}
        for name, check in (("run.json", documents.check_run), ("recipe.toml", documents.check_recipe)):
            if name == "recipe.toml" and name not in self.tree.kinds and documents.is_adopted(self.tree):
                continue
            if name not in said and self.tree.kinds.get(name, FILE) == FILE:
                self.problems += check(self.tree)
        self.problems += checkpoints.inconsistent(self.tree, self.checkpoints, self.hashes)
        return Verification(sorted(set(self.problems)), sorted(self._notes()))

    def _manifest(self) -> Manifest | None:
        try:
            return Manifest.parse(content(self.run / MANIFEST))
        except Unreadable as error:
            what = str(error)
        except ValueError as error:
            what = f"is damaged ({error})"
        self.problems.append(
            Problem(
                MANIFEST, what, "restore it from a copy: without it most files can only be checked for being readable"
            )
        )
        return None

    # ---- logs

    def _logs(self) -> Iterator[Problem]:
        sources: list[Source] = [(f"{name}'s manifest", anchors) for name, anchors in self.checkpoints.anchors.items()]
        if self.manifest is not None:
            sources.append((MANIFEST, self.manifest.logs))
        present = []
        for name in self.tree.children("log"):
            path, stem = f"log/{name}", name.removesuffix(".jsonl")
            if stem == name or stem.startswith("."):
                continue
            kind = self.tree.kinds[path]
            present.append(stem)
            if kind == FOLDER:
                yield Problem(shown(path), "is a folder where a log was written", RESTORE)
            if kind != FILE:
                continue
            found = list(check_log(self.run / path, shown(path), sources, stem in LOGS))
            if None not in found:
                self.known.add(path)
            yield from (problem for problem in found if problem is not None)
        if not self.tree.hidden_by("log/-"):
            yield from missing_logs(present, sources)
        saved, removed = saved_checkpoints(self.run / "log/events.jsonl")
        listed = set(self.manifest.checkpoints) if self.manifest is not None else set()
        yield from checkpoints.missing(self.tree, sorted(saved | listed - removed))

    # ---- files

    def _files(self) -> Iterator[Problem]:
        expected = dict(self.checkpoints.expected)
        if self.manifest is None:
            listed, problems = documents.unlisted(self.tree)
            expected |= listed
            yield from problems
        else:
            for path, entry in self.manifest.files.items():
                is_weights = path.startswith(("dictionaries/", "lenses/")) and path.endswith(".safetensors")
                expected[path] = Expected.of(entry, _DATA if path.startswith("data/") else RESTORE, is_weights)
        self.known |= expected.keys()
        self.known |= {f"checkpoints/{name}/{MANIFEST}" for name in self.tree.children("checkpoints")}
        for path, kind in self.tree.kinds.items():
            if path.rpartition("/")[2].startswith(LOCK) and (kind == FOLDER or self._has_bytes(path)):
                yield Problem(
                    shown(path), "is not the empty file that a lock is", "remove it while nothing uses the run"
                )
        yield from compare(self.tree, expected, self.hashes)

    def _has_bytes(self, path: str) -> bool:
        try:
            return (self.run / path).lstat().st_size > 0 and self.tree.kinds[path] == FILE
        except OSError:
            return False

    def _notes(self) -> Iterator[Problem]:
        for path, count in foreign(self.tree, self.known):
            name = path.rpartition("/")[2]
            if any(part.startswith(_OURS) for part in path.split("/")):
                if is_abandoned(Path(name)):
                    yield Problem(shown(path), "was left by a write that was cut off", "nothing reads it")
                continue
            is_folder = self.tree.kinds.get(path) == FOLDER
            what = f"has {count:,} files that cloche did not write" if is_folder else "was not written by cloche"
            yield Problem(shown(path), what, "nothing was checked there")
