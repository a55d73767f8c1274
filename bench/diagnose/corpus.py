"""Runs with planted faults, and healthy ones, each an ordinary run folder with its truth beside it.

    python -m bench.diagnose.corpus FOLDER FAMILY ... [--healthy 8] [--share 1]

Runs that are there already are kept, so that a stopped session goes on. The text is that of `shared/data`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import shutil
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from bench.diagnose import faults
from bench.diagnose.damage import Replace, damage
from bench.diagnose.families import CHARACTERS, FAMILIES, Family
from bench.diagnose.faults import Planned
from cloche.diagnose import first_divergence
from cloche.errors import NotFinite
from cloche.runs import Run, take
from cloche.text import Tokenizer
from cloche.train import Trainer, prepare_data

PIECE = 40_000  # characters of a document
SOON = 40  # steps before which a run has no course that it could leave
LEVEL = 16  # steps whose median is a level
EXCURSION = 1.25  # times the lowest level before: what a calm run stays below
LAST = 20  # steps whose median loss is a run's
NEAR = 1.1  # of a good run's loss, below which a run trains well
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


def make(planned: Planned, folder: Path, root: Path) -> dict[str, Any]:
    """Trains a planned run in `folder`; returns its truth, which is written beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    recipe = planned.recipe([str(texts(planned.family, "little" if planned.text == "little" else "whole", root))])
    run = Run.create(folder, recipe.to_toml(), planned.seed)
    prepared = root / "prepared" / f"{planned.family.name}-{'little' if planned.text == 'little' else 'whole'}"
    if not prepared.exists():
        other = Run.create(prepared.with_name(prepared.name + f"-{folder.name}"), recipe.to_toml())
        prepare_data(recipe, other)
        other.path.rename(prepared)
    (folder / "data").mkdir()
    for path in (*(prepared / name for name in TOKENIZER), *sorted((prepared / "data").iterdir())):
        take(path, folder / path.relative_to(prepared), copy=True)
    if planned.rows:
        rng = np.random.default_rng(planned.seed)
        words = planned.replace(rng) if planned.replace else other_words(planned.family, folder, rng)
        damage(folder, recipe, planned.rows, words)
    try:
        trainer = Trainer.start(recipe, run)
        for _ in trainer:
            pass
    except NotFinite:  # its log says so
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
        "loss": median(last) if (last := [x for x in losses[-LAST:] if x is not None]) else None,
    }
    (folder / "truth.json").write_text(json.dumps(truth, indent=1))
    return truth


def other_words(family: Family, folder: Path, rng: np.random.Generator) -> Replace:
    """The text of the next family of the same side, in this one's tokens, piece after piece."""
    side = [each for each in FAMILIES.values() if each.held_out == family.held_out]
    text = side[(side.index(family) + 1) % len(side)].text()[:CHARACTERS]
    ids = np.array(Tokenizer.load(folder).encode(text), dtype=np.int64)
    place = int(rng.integers(len(ids)))

    def replace(tokens: np.ndarray) -> np.ndarray:
        nonlocal place
        found = np.take(ids, np.arange(place, place + len(tokens)), mode="wrap")
        place += len(tokens)
        return found

    return replace


def losses_of(run: Run) -> list[float | None]:
    """The loss of every step, from steps.jsonl."""
    return [loss for record in run.read_log("steps") for loss in record["loss"]]


def calm(folder: Path) -> bool:
    """Whether the loss of a run never went far above the lowest level that it had had: one that is not calm and yet did not
    diverge is neither healthy nor broken, and is left out."""
    losses = [math.inf if loss is None else loss for loss in losses_of(Run.open(folder))]
    levels = [median(losses[i : i + LEVEL]) for i in range(0, len(losses) - LEVEL, LEVEL // 2)]
    return all(
        level < EXCURSION * low for level, low in zip(levels[1:], itertools.accumulate(levels, min), strict=False)
    )


def put_aside(folder: Path, root: Path) -> None:
    """A run that did not do as wanted, such as a fault that did no harm."""
    if folder.exists():
        shutil.rmtree(root / "unused" / folder.name, ignore_errors=True)
        folder.rename(root / "unused" / folder.name)


def final(truth: dict[str, Any]) -> float:
    return math.inf if truth["diverged"] or truth["loss"] is None else truth["loss"]


def make_family(family: Family, out: Path, root: Path, healthy_runs: int, share: float) -> None:
    """All runs of a family, of which those that are there already are kept."""

    def made(planned: Planned) -> dict[str, Any]:
        folder = out / planned.name
        for place in (folder, root / "unused" / planned.name):
            if (place / "truth.json").exists():
                return json.loads((place / "truth.json").read_bytes())
        truth = make(planned, root / "making" / planned.name, root)
        (root / "making" / planned.name).rename(folder)
        print(f"{planned.name:48} {truth}", flush=True)
        return truth

    out.mkdir(parents=True, exist_ok=True)
    good = final(made(faults.Planned(family, "none", 0, onset=None)))
    edge = 1.0
    for strength in (30.0, 10.0, 3.0):
        planned = faults.high_rate(family, random.Random(f"{family.name} edge"), 0, strength)
        if final(made(planned)) < NEAR * good and calm(out / planned.name):
            edge = strength
            break
        put_aside(out / planned.name, root)
    print(f"{family.name}: good loss {good:.3f}, edge {edge:g}", flush=True)
    for number, order in enumerate(faults.orders(edge, healthy_runs)):
        for i in range(math.ceil(share * order.count)):
            seed = 100 * number + i + 1
            for strength in (
                order.strengths if order.diverges is not None else (order.strengths[i % len(order.strengths)],)
            ):
                planned = order.make(family, random.Random(f"{family.name} {seed}"), seed, strength)
                truth = made(planned)
                steady = order.make is not faults.high_rate or calm(out / planned.name)
                if order.diverges is None or (bool(truth["diverged"]) == order.diverges and steady):
                    if not truth["diverged"] or truth["diverged"] > SOON:
                        break
                    continue  # broken from its first steps on: kept, but nothing could have warned of it
                put_aside(out / planned.name, root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("families", nargs="+", choices=list(FAMILIES))
    parser.add_argument("--healthy", type=int, default=8)
    parser.add_argument("--share", type=float, default=1.0, help="of the runs of each kind")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("making", "unused", "prepared"):
        (args.folder / name).mkdir(parents=True, exist_ok=True)
    for name in args.families:
        side = "held_out" if FAMILIES[name].held_out else "tuning"
        make_family(FAMILIES[name], args.folder / side, args.folder, args.healthy, args.share)


if __name__ == "__main__":
    main()
