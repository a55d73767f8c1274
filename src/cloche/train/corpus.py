"""Builds a run's tokenizer and packed tokens from [data] and [tokenizer] of its recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cloche.data import DataIndex, Mixture, Source, prepare_mixture, standard_library
from cloche.errors import CorpusEmpty, FolderForeign, RunDamaged
from cloche.files import WRITING, move, put_in_place, sha256_of, temporary_folder
from cloche.runs import Run
from cloche.text import Tokenizer, train_bpe
from cloche.train.checkpoint import TOKENIZER_FILES
from cloche.train.intact import shards_of, trained_on
from cloche.train.recipe import Recipe
from cloche.train.recipe.sections import DataSection

MIN_BATCHES = 4  # fewer leave too little to train and validate on
_SHARD = re.compile(r"(train|validation)-\d{5}\.bin")


def prepare_data(recipe: Recipe, run: Run, on_progress: Callable[[str, int, int], None] | None = None) -> None:
    """Trains or loads the tokenizer and packs the corpus into the run's folder; does nothing if that is already done.

    Raises ClocheError, before anything in the run is changed, if the corpus has fewer tokens than four batches, or if
    the run has checkpoints and the corpus no longer gives the tokens they were trained on.

    >>> from pathlib import Path
    >>> from cloche.data import PackedTokens
    >>> from cloche.runs import Run
    >>> from cloche.train import Recipe, prepare_data
    >>> _ = Path("text.txt").write_text("The cat sat on the mat. " * 400)
    >>> changes = {"data.paths": ["text.txt"], "tokenizer.vocab": 270, "run.length": 16}
    >>> recipe = Recipe().with_set(changes)
    >>> run = Run.create("run", recipe.to_toml())
    >>> prepare_data(recipe, run)
    >>> len(PackedTokens.open(run.path, "train")) > len(PackedTokens.open(run.path, "validation")) > 0
    True
    """
    data = run.path / "data"
    if (data / "data.json").exists():
        if not run.is_recorded("data/data.json"):  # killed right after the last file was written
            _record(run)
        return
    foreign = [
        path.name for path in data.glob("*") if not (_SHARD.fullmatch(path.name) or path.name.startswith(WRITING))
    ]
    if foreign:
        raise FolderForeign(
            f"{data} has no data.json, and contains {foreign[0]}, which is not part of a packed corpus; move it away"
        )
    d, t = recipe.data, recipe.tokenizer
    vocab: Tokenizer | Callable[..., Tokenizer] = partial(
        train_bpe, vocab=t.vocab, special=recipe.objective.special_tokens
    )
    if t.path:
        vocab = Tokenizer.load(t.path)
        recipe.objective.bound(vocab)  # before an hour of packing, not after it
    with run.training(), temporary_folder(run.path / "prepared") as made:
        index = prepare_mixture(
            d.mixture or Mixture((_only(d),)),
            made,
            vocab=vocab,
            validation=d.validation or d.validation_share,
            duplicates=d.duplicates,
            on_progress=on_progress,
        )
        _require_enough(index, recipe)
        _require_same(run, made)
        for name in TOKENIZER_FILES:
            move(made / name, run.path / name)
        put_in_place(made / "data", data, replace=True)  # last: if data.json exists, so does the tokenizer
    _record(run)


def _only(d: DataSection) -> Source:
    """The source of a recipe without a mixture."""
    return Source(tuple(map(str, d.paths or standard_library())), None, d.glob, d.field, d.encoding)


def _require_enough(index: DataIndex, recipe: Recipe) -> None:
    r = recipe.run
    tokens, least = sum(side["tokens"] for side in index["splits"].values()), MIN_BATCHES * r.batch * r.length
    if tokens < least:
        raise CorpusEmpty(
            f"The corpus has {tokens:,} tokens, and {MIN_BATCHES} batches of {r.batch} windows of {r.length} tokens take "
            f"{least:,}; give more text, or set a smaller run.batch or run.length."
        )


def _record(run: Run) -> None:
    """Adds the data and the tokenizer to the run's manifest; the hashes of the shards are known from packing."""
    index = json.loads((run.path / "data" / "data.json").read_bytes())
    shards = [shard for split in index["splits"].values() for shard in split["shards"]]
    known = {f"data/{shard['file']}": shard["sha256"] for shard in shards}
    run.record("data/data.json", "tokenizer.json", "tokenizer_config.json", *known, known=known)


def _require_same(run: Run, made: Path) -> None:
    """Raises ClocheError if the corpus packed again is not the one that the checkpoints were trained on."""
    saved = run.checkpoints()
    if not saved:
        return
    last = saved[-1]
    files = last.manifest["files"]
    same_tokenizer = all(files[name]["sha256"] == sha256_of(made / name) for name in TOKENIZER_FILES if name in files)
    packed = {path.name: sha256 for path, sha256 in shards_of(made / "data", "prepare it again").items()}
    if not same_tokenizer or trained_on(last) not in (None, packed):
        raise RunDamaged(
            f"{run.path} has lost its data/, and the files it was packed from no longer give the tokens that {last.name} was "
            "trained on; put the files back as they were, or start another run"
        )
