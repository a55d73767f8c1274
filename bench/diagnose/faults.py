"""Planted faults: each is a recipe of a family with one thing wrong, and what is damaged in its text."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bench.diagnose.damage import Replace
from bench.diagnose.families import BATCH, LENGTH, VOCAB, Family
from bench.diagnose.planted import Coarse, Louder, Rising
from cloche.model import LM, FanIn, Initialisation, NoNorm
from cloche.train import WSD, Constant, Group, Optimizer, Recipe, Schedule

STEPS = 400


@dataclass(frozen=True)
class Planned:
    """A run to make. onset: the step from which something is wrong, 0 if from the beginning, None if never; rows: how many
    rows of the batch of a step, counted from 0, are replaced, and by what."""

    family: Family
    cause: str
    seed: int
    strength: float = 0.0
    hard: bool = False
    onset: int | None = 0
    model: LM | None = None
    optimizer: Optimizer | None = None
    schedule: Schedule = WSD()
    initialisation: Initialisation = FanIn()
    settings: dict[str, Any] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)
    replace: Callable[[np.random.Generator], Replace] | None = None
    text: str = "whole"  # or "little", or another family's for what replaces rows

    @property
    def name(self) -> str:
        return f"{self.family.name}-{self.cause}{'-hard' if self.hard else ''}-{self.strength:g}-{self.seed}"

    def recipe(self, paths: list[str]) -> Recipe:
        optimizer = self.optimizer or self.family.optimizer(self.family.rate)
        parts = {"optimizer": optimizer, "schedule": self.schedule, "initialisation": self.initialisation}
        recipe = Recipe(model=self.model or self.family.model()).model_copy(update=parts)
        settings = {
            "data.paths": paths,
            "tokenizer.vocab": VOCAB,
            "run.seed": self.seed,
            "run.length": LENGTH,
            "run.batch": BATCH,
            "run.steps": STEPS,
            "run.threads": 1,
            "run.precision": "fp32",
            "run.device": "cpu",
            "evaluate.samples": 0,
            "evaluate.tokens": 4096,
        }
        return recipe.with_set(settings | self.settings)


# ---- what replaces the tokens of rows


def noise(rng: np.random.Generator) -> Replace:
    return lambda tokens: rng.integers(1, VOCAB, len(tokens))


def swapped(rng: np.random.Generator) -> Replace:
    """Each row with its tokens renamed in a way of its own, as text of a wrong encoding."""
    return lambda tokens: rng.permutation(VOCAB - 1)[tokens - 1] + 1


def blank(rng: np.random.Generator) -> Replace:
    """One token again and again, as padding or zeros of a damaged file would give."""
    token = int(rng.integers(1, VOCAB))
    return lambda tokens: np.full_like(tokens, token)


def few(rng: np.random.Generator) -> Replace:
    """A short pattern again and again, as a damaged table would give."""
    pattern = rng.integers(1, VOCAB, int(rng.integers(2, 6)))
    return lambda tokens: np.resize(pattern, len(tokens))


def ramp(begin: int, over: int, steps: int = STEPS) -> dict[int, int]:
    """Rows per batch from step `begin` on, growing to all within `over` steps."""
    return {step: min(BATCH, 1 + (step - begin) * BATCH // over) for step in range(begin, steps)}


# ---- causes


def rate(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    """A peak that is too high, reached slowly: by doublings, or by a long warm-up."""
    start = rng.uniform(0.3, 0.6)
    schedule = Rising(schedule=Constant(), start=start, doubling=rng.uniform(6, 16), most=1000.0)
    return Planned(f, "rate", seed, strength, onset=int(start * STEPS), schedule=schedule)


def norm(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    schedule = WSD(warmup=rng.uniform(0.2, 0.7))
    return Planned(
        f, "norm", seed, strength, model=f.model(norm=NoNorm()), schedule=schedule, optimizer=f.optimizer(f.rate * strength)
    )


def initialisation(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    return Planned(
        f,
        "initialisation",
        seed,
        strength,
        initialisation=Louder(gain=strength),
        schedule=WSD(warmup=rng.uniform(0.05, 0.5)),
    )


def branch(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    return replace(
        initialisation(f, rng, seed, strength), cause="branch", initialisation=Louder(gain=strength, branches=True)
    )


def attention(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    return Planned(f, "attention", seed, strength, model=f.model(scale=strength))


def batch(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    """A stretch of bad batches, as a damaged shard in a shuffled stream gives: a few rows at first, then all, then none."""
    onset, over = rng.randint(120, 250), rng.randint(6, 24)
    rows = {step: rows for step, rows in ramp(onset - 1, over).items() if step < onset - 1 + over + strength}
    return Planned(f, "batch", seed, strength, onset=onset, rows=rows, replace=rng.choice([blank, few, noise]))


def poison(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    onset, over = rng.randint(120, 250), round(rng.uniform(0.7, 1.4) * strength)
    return Planned(f, "poison", seed, strength, onset=onset, rows=ramp(onset - 1, over), replace=rng.choice([noise, swapped]))


def precision(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    inner = f.optimizer(f.rate)
    return Planned(f, "precision", seed, strength, optimizer=Coarse(inner, bits=round(strength), up=True, lr=inner.lr))


def rate_low(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    return Planned(f, "rate_low", seed, strength, optimizer=f.optimizer(f.rate / strength))


def warmup(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    return Planned(
        f, "warmup", seed, strength, optimizer=f.optimizer(f.rate * strength), schedule=WSD(warmup=0.0)
    )


def decay(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    optimizer = f.optimizer(f.rate)
    return Planned(f, "decay", seed, strength, optimizer=replace(optimizer, weight_decay=strength / f.rate))  # type: ignore[call-arg]


def overfitting(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    return Planned(f, "overfitting", seed, strength, text="little")


def frozen(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    what = rng.choice(["layers.0", "layers.1", "layers.*", "embed"])
    optimizer = replace(f.optimizer(f.rate), groups=(Group(what, lr=0.0),))
    return Planned(f, "frozen", seed, strength, optimizer=optimizer)


# Strengths to try in turn until a run diverges, and for causes that show otherwise to draw from.
STRENGTHS = {
    rate: (1.0,),
    norm: (6.0, 12.0, 24.0, 48.0),
    initialisation: (0.2, 0.04),
    branch: (8.0, 20.0, 50.0),
    attention: (8.0, 16.0, 32.0),
    batch: (24.0, 40.0),
    poison: (50.0, 25.0, 12.0),
    precision: (4.0, 3.0),
    rate_low: (100.0, 300.0),
    warmup: (4.0, 8.0),
    decay: (0.05, 0.2),
    overfitting: (1.0,),
    frozen: (1.0,),
}
