"""Checks that everything a resumed run reads has the bytes that were written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cloche.errors import FileUnreadable, RunDamaged
from cloche.files import sha256_of_all
from cloche.runs import Checkpoint, Run, step_of
from cloche.train.checkpoint import TOKENIZER_FILES

INDEX = "data.json"
NEEDED = ("model.safetensors", "config.json", "optimizer.safetensors", "state.json")


def require_intact(run: Run, last: Checkpoint) -> None:
    """Hashes every file that resuming from `last` reads; raises ClocheError for the first that is not as written.

    The checkpoint is compared with its manifest, the tokenizer with the checkpoint's, and the packed tokens with
    data.json and with the checkpoint's state. Nothing is written.
    """
    _require_newest(run, last)
    require_readable(run, last)


def require_readable(run: Run, last: Checkpoint) -> None:
    """`require_intact` for a checkpoint that need not be the last."""
    back = f"restore it from a copy, or move {last.path} away to resume from the checkpoint before"
    written: dict[Path, tuple[str, str]] = {}  # file -> sha256, fix
    for name in (*NEEDED, *sorted(set(last.manifest["files"]) - set(NEEDED))):
        entry = last.manifest["files"].get(name)
        if entry is None:
            raise RunDamaged(f"{last.path / 'manifest.json'} does not list {name}; {back}")
        written[last.path / name] = (entry["sha256"], back)
    for name in TOKENIZER_FILES:
        if name in last.manifest["files"]:
            fix = f"copy it from {last.path}"
            written[run.path / name] = (last.manifest["files"][name]["sha256"], fix)
    again = f"delete {run.path / 'data'} to have the same files packed again"
    written |= {path: (sha256, again) for path, sha256 in shards_of(run.path / "data", again).items()}
    _compare(written)
    _require_same_data(run, last, again)


def require_same_tokens(run: Run, checkpoint: Checkpoint | None = None) -> None:
    """Hashes the packed tokens of a run; raises ClocheError unless they are as data.json says, and those that a checkpoint was
    trained on.

    >>> from pathlib import Path
    >>> from cloche.errors import RunDamaged
    >>> from cloche.runs import Run
    >>> from cloche.train import Recipe, prepare_data, require_same_tokens
    >>> _ = Path("text.txt").write_text("The cat sat on the mat. " * 400)
    >>> changes = {"data.paths": ["text.txt"], "tokenizer.vocab": 270, "run.length": 16}
    >>> recipe = Recipe().with_set(changes)
    >>> run = Run.create("run", recipe.to_toml())
    >>> prepare_data(recipe, run)
    >>> require_same_tokens(run)
    >>> _ = (run.path / "data" / "train-00000.bin").write_bytes(b"other")
    >>> try:
    ...     require_same_tokens(run)
    ... except RunDamaged as error:
    ...     print("bytes that were written" in str(error))
    True
    """
    again = f"delete {run.path / 'data'} to have the same files packed again"
    _compare({path: (sha256, again) for path, sha256 in shards_of(run.path / "data", again).items()})
    if checkpoint is not None:
        _require_same_data(run, checkpoint, again)


def _require_newest(run: Run, last: Checkpoint) -> None:
    """Raises ClocheError if a later checkpoint cannot be read."""
    for folder in sorted((run.path / "checkpoints").glob("step-*")):
        if (step_of(folder.name) or 0) > last.step:
            raise RunDamaged(
                f"{folder} has no readable manifest.json; restore it from a copy, or move {folder.name} away to resume from "
                f"{last.name}"
            )


def require_untrained(run: Run) -> None:
    """Raises ClocheError if a run without checkpoints has been trained: starting again would drop its logs."""
    folders = sorted((run.path / "checkpoints").glob("step-*"))
    if folders:
        raise RunDamaged(f"{folders[-1]} has no readable manifest.json; restore it from a copy, or move it away")
    reached = max((int(record.get("step") or 0) for record in run.read_log("metrics")), default=0)
    if reached > 0:
        raise RunDamaged(
            f"{run.path} has lost its checkpoints, and its log reaches step {reached}; restore them from a copy, or start "
            "another run"
        )


def shards_of(folder: Path, fix: str) -> dict[Path, str]:
    """The sha256 of each shard from data.json; {} if that is missing, which opening the tokens reports."""
    if not (folder / INDEX).exists():
        return {}
    try:
        splits = json.loads((folder / INDEX).read_bytes())["splits"].values()
        return {folder / str(shard["file"]): str(shard["sha256"]) for split in splits for shard in split["shards"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise RunDamaged(f"{folder / INDEX} is not readable as a list of shards; {fix}") from None


def _compare(written: dict[Path, tuple[str, str]]) -> None:
    for path, (_, fix) in written.items():
        if not path.is_file():
            raise RunDamaged(f"{path} is missing; {fix}")
    try:
        found = sha256_of_all(written)
    except OSError as error:
        raise FileUnreadable(f"{error.filename} cannot be read ({error.strerror}); make it readable") from error
    for path, (sha256, fix) in written.items():
        if found[path] != sha256:
            raise RunDamaged(f"{path} does not have the bytes that were written (its sha256 differs); {fix}")


def data_hashes(run: Run) -> dict[str, str]:
    """The sha256 of each shard by file name, as kept in the state of a checkpoint."""
    return {path.name: sha256 for path, sha256 in shards_of(run.path / "data", "prepare it again").items()}


def _require_same_data(run: Run, last: Checkpoint, fix: str) -> None:
    kept = trained_on(last)
    if kept is not None and (run.path / "data" / INDEX).exists() and kept != data_hashes(run):
        raise RunDamaged(f"{run.path / 'data'} is not what {last.name} was trained on; {fix}")


def trained_on(checkpoint: Checkpoint) -> dict[str, str] | None:
    """The sha256 of each shard that a checkpoint was trained on; None if its state has none."""
    source = state_of(checkpoint).get("source")
    shards = source.get("shards") if isinstance(source, dict) else None
    return shards if isinstance(shards, dict) else None


def state_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """state.json of a checkpoint; {} if it cannot be read."""
    try:
        state = json.loads((checkpoint.path / "state.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return state if isinstance(state, dict) else {}
