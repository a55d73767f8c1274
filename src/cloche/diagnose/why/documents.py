"""Where the rows of a batch are from: their place in the packed tokens, their document and its source."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from cloche.data import PackedTokens
from cloche.errors import RunDamaged
from cloche.files import sha256_of
from cloche.runs import Checkpoint, Run

SCANNED = 1 << 20  # tokens looked through at a time
KEY = 24  # tokens by which a row is found


@dataclass(frozen=True)
class Place:
    """A row's place: its first token among the packed ones, the number of the document that it begins in, and the name of
    the source, where the packed text knows it."""

    token: int
    document: int
    source: str


def require_as_trained(run: Run, saved: list[Checkpoint]) -> None:
    """Raises RunDamaged if the packed tokens of training are not the bytes that the run was trained on."""
    index = (
        json.loads((run.path / "data" / "data.json").read_bytes()) if (run.path / "data" / "data.json").exists() else {}
    )
    shards = index.get("splits", {}).get("train", {}).get("shards", [])
    trained: dict[str, str] = {}
    for checkpoint in saved[:1]:
        state = checkpoint.path / "state.json"
        trained = json.loads(state.read_bytes()).get("source", {}).get("shards", {}) if state.exists() else {}
    for shard in shards:
        path = run.path / "data" / shard["file"]
        if path.exists() and sha256_of(path) != trained.get(shard["file"], shard["sha256"]):
            raise RunDamaged(
                f"{path} does not have the bytes that the run was trained on, so its batches were not read again; restore it."
            )


def place_of(tokens: PackedTokens, row: np.ndarray) -> Place | None:
    """Finds a row [position] among the packed tokens; None if it is not there as one piece."""
    key, size = row[:KEY], min(KEY, len(row))
    for begin in range(0, len(tokens), SCANNED):
        part = tokens.window(begin, min(SCANNED + size, len(tokens) - begin))
        found = np.flatnonzero(part[: len(part) - size + 1] == key[0])
        for k in range(1, size):
            found = found[part[found + k] == key[k]]
        for at in found.tolist():
            whole = min(len(row), len(tokens) - begin - at)
            if (tokens.window(begin + at, whole) == row[:whole]).all():
                token = begin + at
                return Place(token, int(np.searchsorted(tokens.ends(), token)), source_of(tokens, token))
    return None


def source_of(tokens: PackedTokens, token: int) -> str:
    """The name of the source of a mixture that holds a token; "" without one."""
    first = 0
    for part in tokens.parts:
        first += len(part)
        if token < first:
            return part.name
    return ""
