"""From a recipe's [data] and [tokenizer] to the tokens a run trains on."""

from __future__ import annotations

from cloche.data import prepare, standard_library
from cloche.data.prepare import Progress
from cloche.runs import Run
from cloche.text import Tokenizer
from cloche.train.recipe import Recipe


def prepare_data(recipe: Recipe, run: Run, on_progress: Progress | None = None) -> None:
    """Trains or loads the tokenizer and packs the corpus into the run's folder; does nothing where that is done already."""
    if (run.path / "data" / "data.json").exists():
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
