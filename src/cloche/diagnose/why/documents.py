"""The rows of a batch as text, and where they are from: their place in the packed tokens, their document and its source."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cloche.data import PackedTokens
from cloche.diagnose.why.facts import Facts
from cloche.drawing import visible
from cloche.runs import Run
from cloche.text import Tokenizer

SCANNED = 1 << 20  # tokens looked through at a time
KEY = 24  # tokens by which a row is found
SHOWN = 4  # rows
CHARACTERS = 90  # of each


@dataclass(frozen=True)
class Place:
    """A row's place: its first token among the packed ones, the number of the document that it begins in, and the name of
    the source, where the packed text knows it."""

    token: int
    document: int
    source: str


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


def rows_of(run: Run, facts: Facts) -> list[dict[str, Any]]:
    """The rows of the batch of `facts.suspect` that the last good checkpoint finds least likely, at most four: {"step", "row",
    "nats" (per token), "token" (its place among the packed ones), "document" (its number), "source", "text"}."""
    step = facts.suspect
    if facts.batches is None or step is None:
        return []
    tokens, tokenizer = PackedTokens.open(run.path / "data", "train"), Tokenizer.load(run.path)
    ids = facts.batches.at(step - 1)
    order = np.argsort(-np.array(facts.rows)).tolist() if facts.rows else range(len(ids))
    found = []
    for row in list(order)[:SHOWN]:
        place = place_of(tokens, ids[row])
        text = visible(tokenizer.decode(ids[row].tolist()), space=" ")
        found.append(
            {
                "step": step,
                "row": int(row),
                "nats": facts.rows[row] if facts.rows else None,
                "token": None if place is None else place.token,
                "document": None if place is None else place.document,
                "source": (place.source if place is not None else "") or _only_file(run, facts),
                "text": text if len(text) <= CHARACTERS else text[: CHARACTERS - 1] + "…",
            }
        )
    return found


def _only_file(run: Run, facts: Facts) -> str:
    """The name of the file, where the text is of one."""
    read = json.loads((run.path / "data" / "data.json").read_bytes()).get("sources", {})
    paths = facts.recipe.data.paths
    return Path(paths[0]).name if read.get("files") == 1 and len(paths) == 1 else ""
