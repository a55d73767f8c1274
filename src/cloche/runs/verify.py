"""Checks a run folder against what was written down about it: every hash, every log, every step's own weights."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloche.errors import ClocheError
from cloche.files import WRITING, sha256_of
from cloche.runs import logs
from cloche.runs.checkpoints import MANIFEST, read_manifest, step_of

_RESTORE = "restore it from a copy, or delete the checkpoint"
_RESTORE_FILE = "restore it from a copy"
_TOKEN_BYTES = {"uint16": 2, "uint32": 4}


@dataclass(frozen=True)
class Problem:
    """Something in a run folder that is not as it was written."""

    where: str  # path relative to the run folder
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.where} {self.what}; {self.mend}"


def verify(path: Path | str) -> list[Problem]:
    """Everything wrong with a run folder; [] when all is as written. Reads every byte that carries a hash.

    Raises ClocheError where there is no run folder at all. Temporary names left by a killed write are no problem:
    nothing reads them. A log that a living writer holds may end in mid-line, so its tail is not judged.
    """
    run = Path(path)
    if not run.is_dir():
        raise ClocheError(f"there is no folder {run}; name a run folder")
    if not (run / "run.json").is_file() and not (run / "checkpoints").is_dir():
        raise ClocheError(f"{run} is no run: it holds no run.json; name a folder that `cloche pretrain` or `demo` made")
    checks = (_documents, _logs, _checkpoints, _shards, _dictionaries, _findings)
    return [problem for check in checks for problem in check(run)]


def _documents(run: Path) -> Iterator[Problem]:
    for name, required in (("run.json", True), ("tokenizer.json", False), ("tokenizer_config.json", False)):
        if (run / name).is_file():
            yield from _json_problem(run, run / name)
        elif required:
            yield Problem(name, "is missing", _RESTORE_FILE)
    try:
        tomllib.loads((run / "recipe.toml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        yield Problem("recipe.toml", "is missing", _RESTORE_FILE)
    except ValueError as error:
        yield Problem("recipe.toml", f"is not readable as TOML ({error})", _RESTORE_FILE)


def _logs(run: Path) -> Iterator[Problem]:
    for path in sorted((run / "log").glob("*.jsonl")):
        where = _relative(run, path)
        try:
            _, end = logs.read_from(path)
        except ClocheError as error:
            yield Problem(where, f"is damaged ({error})", "delete that line")
            continue
        if end < path.stat().st_size and not logs.is_being_written(path):
            yield Problem(where, "ends in a torn line", "resume the run: its writer cuts the line off")


def _checkpoints(run: Path) -> Iterator[Problem]:
    weights: dict[str, Path] = {}
    for folder in sorted((run / "checkpoints").glob("step-*"), key=lambda folder: step_of(folder.name) or 0):
        hashes: dict[str, str] = {}
        yield from _checkpoint(run, folder, hashes)
        same = weights.setdefault(hashes.get("model.safetensors", str(folder)), folder)
        if same != folder:
            yield Problem(
                _relative(run, folder / "model.safetensors"),
                f"holds the same weights as {same.name}",
                "delete the step that is wrong",
            )


def _checkpoint(run: Path, folder: Path, hashes: dict[str, str]) -> Iterator[Problem]:
    """Problems of one checkpoint; `hashes` receives the sha256 of each file as it is now."""
    manifest = read_manifest(folder)
    if manifest is None:
        yield Problem(
            _relative(run, folder / MANIFEST), "is missing or unreadable", "delete the checkpoint: it cannot be checked"
        )
        return
    if manifest["step"] != step_of(folder.name):
        yield Problem(
            _relative(run, folder), f"says in its manifest that it is step {manifest['step']}", "rename it back"
        )
    for name, written in manifest["files"].items():
        yield from _file(run, folder / name, written["sha256"], written["bytes"], _RESTORE, hashes)
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for name in sorted(present - set(manifest["files"]) - {MANIFEST}):
        if not Path(name).name.startswith(WRITING):
            yield Problem(
                _relative(run, folder / name), "is not in the manifest", "delete it: the run did not write it"
            )
    state = folder / "state.json"
    if state.is_file() and not list(_json_problem(run, state)):
        step = json.loads(state.read_bytes()).get("step", manifest["step"])
        if step != manifest["step"]:
            yield Problem(_relative(run, state), f"is the state of step {step}", "delete the checkpoint")


def _file(
    run: Path, path: Path, sha256: str, size: int | None, mend: str, hashes: dict[str, str] | None = None
) -> Iterator[Problem]:
    if not path.is_file():
        yield Problem(_relative(run, path), "is missing", mend)
        return
    actual_size = path.stat().st_size
    actual = sha256_of(path)
    if hashes is not None:
        hashes[path.name] = actual
    if size is not None and actual_size != size:
        yield Problem(_relative(run, path), f"has {actual_size} bytes, {size} were written", mend)
    elif actual != sha256:
        yield Problem(_relative(run, path), "does not have the bytes that were written (sha256 differs)", mend)


def _shards(run: Path) -> Iterator[Problem]:
    document = run / "data" / "data.json"
    if not document.is_file():
        if any((run / "data").glob("*.bin")):
            yield Problem("data/data.json", "is missing beside its shards", "delete data/ and resume: it is made again")
        return
    mend = "delete data/ and resume: it is made again from the same files"
    try:
        data = json.loads(document.read_bytes())
        token_bytes = _TOKEN_BYTES[data["dtype"]]
        shards = [shard for split in data["splits"].values() for shard in split["shards"]]
        expected = [(shard["file"], shard["sha256"], shard["tokens"] * token_bytes) for shard in shards]
    except (ValueError, KeyError, TypeError, AttributeError):
        yield Problem("data/data.json", "is not readable as a list of shards", mend)
        return
    for name, sha256, size in expected:
        yield from _file(run, run / "data" / name, sha256, size, mend)


def _dictionaries(run: Path) -> Iterator[Problem]:
    for document in sorted((run / "dictionaries").glob("[!.]*/dictionary.json")):
        tensors = document.with_name("dictionary.safetensors")
        broken = list(_json_problem(run, document))
        yield from broken
        written = None if broken else json.loads(document.read_bytes()).get("sha256")
        if written is not None:
            yield from _file(run, tensors, written, None, _RESTORE_FILE)
        else:
            yield from _tensors(run, tensors)


def _findings(run: Path) -> Iterator[Problem]:
    for document in sorted((run / "findings").glob("*/*.json")):
        yield from _json_problem(run, document)
    for tensors in sorted((run / "findings").glob("*/*.safetensors")):
        yield from _tensors(run, tensors)


def _json_problem(run: Path, path: Path) -> Iterator[Problem]:
    try:
        value: Any = json.loads(path.read_bytes())
    except ValueError:
        value = None
    if not isinstance(value, dict):
        yield Problem(_relative(run, path), "is not readable as a JSON object", _RESTORE_FILE)


def _tensors(run: Path, path: Path) -> Iterator[Problem]:
    """Whether a safetensors file without a recorded hash is at least whole: its header says how long it must be."""
    if not path.is_file():
        yield Problem(_relative(run, path), "is missing", _RESTORE_FILE)
        return
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        size = path.stat().st_size
        try:
            header = json.loads(file.read(min(length, size)))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            yield Problem(_relative(run, path), "is not readable as safetensors", _RESTORE_FILE)
            return
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        yield Problem(_relative(run, path), f"has {size} bytes, its header tells of {expected}", _RESTORE_FILE)


def _relative(run: Path, path: Path) -> str:
    return path.relative_to(run).as_posix()
