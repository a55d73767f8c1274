"""Text that is damaged in the packed tokens of a run, before it is trained: what batches from some step on will read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cloche.data import PackedTokens
from cloche.files import sha256_of
from cloche.train import Recipe
from cloche.train.source import batches_of

Replace = Callable[[np.ndarray], np.ndarray]  # tokens [n] -> tokens [n]


class _Recorded(PackedTokens):
    """Tokens that remember where they are read."""

    read: list[tuple[int, int]]

    def window(self, start: int, length: int) -> np.ndarray:
        self.read.append((start, length))
        return super().window(start, length)


def damage(folder: Path, recipe: Recipe, rows_of: dict[int, int], replace: Replace) -> None:
    """Overwrites tokens of the rows that batches read: the first `rows_of[step]` rows of each of these batches, counted
    from 0. The index has the new hash, as if the text had always been so."""
    tokens = _Recorded.open(folder, "train")
    tokens.read = []
    batches = batches_of(recipe, tokens)
    index = json.loads((folder / "data" / "data.json").read_bytes())
    (shard,) = index["splits"]["train"]["shards"]
    path = folder / "data" / shard["file"]
    stored = np.fromfile(path, dtype=np.dtype(index["dtype"]).newbyteorder("<"))
    for step, rows in rows_of.items():
        tokens.read.clear()
        batches.rows(step)
        for start, length in tokens.read[:rows]:
            stored[start : start + length] = replace(stored[start : start + length].astype(np.int64))
    path.write_bytes(stored.tobytes())
    shard["sha256"] = sha256_of(path)
    (folder / "data" / "data.json").write_text(json.dumps(index))
