"""The batch of a step as text: its most unlike rows, with their document and source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from cloche.data import PackedTokens
from cloche.diagnose.why.documents import place_of
from cloche.diagnose.why.facts import Facts
from cloche.drawing import visible
from cloche.runs import Run
from cloche.text import Tokenizer

SHOWN = 4  # rows
CHARACTERS = 90  # of each


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
