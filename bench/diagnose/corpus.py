"""Runs with planted faults, and healthy ones, each an ordinary run folder with its truth beside it.

    python -m bench.diagnose.corpus FOLDER [--side tuning] [--part 0/2]
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from bench.diagnose.damage import damage
from bench.diagnose.families import CHARACTERS, Family
from bench.diagnose.faults import Planned
from cloche.diagnose import first_divergence
from cloche.errors import NotFinite
from cloche.runs import Run, take
from cloche.train import Trainer, prepare_data

PIECE = 40_000  # characters of a document
LITTLE = 30_000  # of a text that is too little
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def texts(family: Family, amount: str, root: Path) -> Path:
    """A folder with the text of a family, in documents."""
    folder = root / "texts" / f"{family.name}-{amount}"
    if not folder.exists():
        making = folder.with_name(folder.name + "-making")
        making.mkdir(parents=True, exist_ok=True)
        text = family.text()[: LITTLE if amount == "little" else CHARACTERS]
        for i in range(0, len(text), PIECE):
            (making / f"{i // PIECE:03}.txt").write_text(text[i : i + PIECE])
        making.rename(folder)
    return folder


def make(planned: Planned, folder: Path, root: Path) -> dict[str, object]:
    """Trains a planned run in `folder`; returns its truth, which is written beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    recipe = planned.recipe([str(texts(planned.family, planned.text, root))])
    run = Run.create(folder, recipe.to_toml(), planned.seed)
    prepared = root / "prepared" / f"{planned.family.name}-{planned.text}"
    if not prepared.exists():
        other = Run.create(prepared.with_name(prepared.name + f"-{folder.name}"), recipe.to_toml())
        prepare_data(recipe, other)
        other.path.rename(prepared)
    (folder / "data").mkdir()
    for path in (*(prepared / name for name in TOKENIZER), *sorted((prepared / "data").iterdir())):
        take(path, folder / path.relative_to(prepared), copy=True)
    if planned.replace is not None:
        rng = np.random.default_rng(planned.seed)
        damage(folder, recipe, planned.rows, planned.replace(rng))
    losses, steps = [], 0
    try:
        trainer = Trainer.start(recipe, run)
        for _ in trainer:
            pass
    except NotFinite:
        pass
    losses = losses_of(run)
    truth = {
        "family": planned.family.name,
        "held_out": planned.family.held_out,
        "cause": planned.cause,
        "hard": planned.hard,
        "strength": planned.strength,
        "onset": planned.onset,
        "diverged": first_divergence(losses),
        "loss": losses[-1] if losses else None,
    }
    (folder / "truth.json").write_text(json.dumps(truth, indent=1))
    return truth


def losses_of(run: Run) -> list[float | None]:
    """The loss of every step, from steps.jsonl."""
    return [loss for record in run.read_log("steps") for loss in record["loss"]]
