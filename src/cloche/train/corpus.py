"""From a recipe's [data] and [tokenizer] to the tokens a run trains on."""

from __future__ import annotations

import json

from cloche.data import prepare, standard_library
from cloche.data.prepare import Progress
from cloche.errors import ClocheError
from cloche.runs import Run
from cloche.text import Tokenizer
from cloche.train.recipe import Recipe

LEAST_BATCHES = 4  # below this there is nothing to learn from and too little to validate on


def prepare_data(recipe: Recipe, run: Run, on_progress: Progress | None = None) -> None:
    """Trains or loads the tokenizer and packs the corpus into the run's folder; does nothing where that is done already.

    Raises ClocheError for a corpus of fewer tokens than four batches take.
    """
    if (run.path / "data" / "data.json").exists():
        if not run.is_recorded("data/data.json"):  # killed right after the last file was written
            _record(run)
        return
    d, t, r = recipe.data, recipe.tokenizer, recipe.run
    index = prepare(
        d.paths or standard_library(),
        run.path,
        vocab=Tokenizer.load(t.path) if t.path else t.vocab,
        validation=d.validation or d.validation_share,
        glob=d.glob,
        field=d.field,
        encoding=d.encoding,
        on_progress=on_progress,
    )
    tokens = sum(side["tokens"] for side in index["splits"].values())
    if tokens < LEAST_BATCHES * r.batch * r.length:
        (run.path / "data" / "data.json").unlink()  # so that the run does not go on with it
        raise ClocheError(
            f"The corpus has {tokens:,} tokens, and {LEAST_BATCHES} batches of {r.batch} windows of {r.length} tokens take "
            f"{LEAST_BATCHES * r.batch * r.length:,}; give more text, or set a smaller run.batch or run.length."
        )
    _record(run)


def _record(run: Run) -> None:
    """Puts the data and the tokenizer into the run's manifest; the hashes of the shards are known from packing."""
    index = json.loads((run.path / "data" / "data.json").read_bytes())
    shards = [shard for split in index["splits"].values() for shard in split["shards"]]
    known = {f"data/{shard['file']}": shard["sha256"] for shard in shards}
    run.record("data/data.json", "tokenizer.json", "tokenizer_config.json", *known, known=known)
