"""From a recipe's [data] and [tokenizer] to the tokens a run trains on."""

from __future__ import annotations

import json

from cloche.data import prepare, standard_library
from cloche.data.prepare import Progress
from cloche.runs import Run
from cloche.text import Tokenizer
from cloche.train.recipe import Recipe


def prepare_data(recipe: Recipe, run: Run, on_progress: Progress | None = None) -> None:
    """Trains or loads the tokenizer and packs the corpus into the run's folder; does nothing where that is done already."""
    index = run.path / "data" / "data.json"
    if index.exists():
        if not run.is_recorded("data/data.json"):  # killed right after the last file was written
            _record(run)
        return
    d, t = recipe.data, recipe.tokenizer
    prepare(
        d.paths or standard_library(),
        run.path,
        vocab=Tokenizer.load(t.path) if t.path else t.vocab,
        validation=d.validation or d.validation_share,
        glob=d.glob,
        field=d.field,
        on_progress=on_progress,
    )
    _record(run)


def _record(run: Run) -> None:
    """Puts the data and the tokenizer into the run's manifest; the hashes of the shards are known from packing."""
    index = json.loads((run.path / "data" / "data.json").read_bytes())
    shards = [shard for split in index["splits"].values() for shard in split["shards"]]
    known = {f"data/{shard['file']}": shard["sha256"] for shard in shards}
    run.record("data/data.json", "tokenizer.json", "tokenizer_config.json", *known, known=known)
