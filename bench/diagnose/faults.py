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
from cloche.train import WSD, Constant, Cosine, Group, Linear, Optimizer, Recipe, Schedule

STEPS = 320


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
            "evaluate.validations": 4,
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
    """No normalisation, at a rate at which the family trains well with one."""
    schedule = WSD(warmup=rng.uniform(0.2, 0.7))
    return Planned(
        f,
        "norm",
        seed,
        strength,
        model=f.model(norm=NoNorm()),
        schedule=schedule,
        optimizer=f.optimizer(f.rate * strength),
    )


def initialisation(f: Family, rng: random.Random, seed: int, strength: float, rate: float = 1.0) -> Planned:
    return Planned(
        f,
        "initialisation",
        seed,
        strength,
        initialisation=Louder(gain=strength),
        optimizer=f.optimizer(f.rate * rate),
        schedule=WSD(warmup=rng.uniform(0.05, 0.5)),
    )


def branch(f: Family, rng: random.Random, seed: int, strength: float, rate: float = 1.0) -> Planned:
    louder = Louder(gain=strength, branches=True)
    return replace(initialisation(f, rng, seed, strength, rate), cause="branch", initialisation=louder)


def attention(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    return Planned(f, "attention", seed, strength, model=f.model(scale=strength))


def batch(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    """A stretch of bad batches, as a damaged shard in a shuffled stream gives: a few rows at first, then all, then none."""
    onset, over = rng.randint(100, 190), rng.randint(6, 24)
    rows = {step: rows for step, rows in ramp(onset - 1, over).items() if step < onset - 1 + over + strength}
    return Planned(f, "batch", seed, strength, onset=onset, rows=rows, replace=rng.choice([blank, few, noise]))


def poison(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    onset, over = rng.randint(100, 180), round(rng.uniform(0.7, 1.4) * strength)
    return Planned(
        f, "poison", seed, strength, onset=onset, rows=ramp(onset - 1, over), replace=rng.choice([noise, swapped])
    )


def precision(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    inner = f.optimizer(f.rate)
    return Planned(f, "precision", seed, strength, optimizer=Coarse(inner, bits=round(strength), up=True, lr=inner.lr))


def rate_low(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    return Planned(f, "rate_low", seed, strength, optimizer=f.optimizer(f.rate / strength))


def warmup(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    return Planned(f, "warmup", seed, strength, optimizer=f.optimizer(f.rate * strength), schedule=WSD(warmup=0.0))


def decay(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    optimizer = f.optimizer(f.rate)
    return Planned(f, "decay", seed, strength, optimizer=replace(optimizer, weight_decay=strength / f.rate))  # type: ignore[call-arg]


def overfitting(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    return Planned(f, "overfitting", seed, strength, text="little")


def frozen(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    what = rng.choice(["layers.0", "layers.1", "layers.*", "embed"])
    optimizer = replace(f.optimizer(f.rate), groups=(Group(what, lr=0.0),))
    return Planned(f, "frozen", seed, strength, optimizer=optimizer)


# ---- healthy runs, some of them hard to tell from faults


def healthy(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    schedule = rng.choice([WSD(), WSD(decay=0.2), Cosine(), Constant(warmup=0.1), Linear()])
    model = f.model(width=rng.choice([48, 64, 80]), depth=rng.choice([2, 3, 4]))
    optimizer = f.optimizer(f.rate * rng.choice([0.5, 1.0, 1.0, 2.0]))
    return Planned(f, "none", seed, strength, onset=None, model=model, optimizer=optimizer, schedule=schedule)


def high_rate(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    """A rate near the largest that trains."""
    schedule = WSD(warmup=rng.uniform(0.2, 0.5), decay=0.3)
    return _hard(f, seed, strength, optimizer=f.optimizer(f.rate * strength), schedule=schedule)


def recovering(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    """One to three short runs of bad batches, after which it trains on."""
    begins = rng.sample(range(60, STEPS - 60, 40), rng.randint(1, 3))
    rows = {begin + i: rng.choice([3, BATCH]) for begin in begins for i in range(round(rng.uniform(1, strength)))}
    return _hard(f, seed, strength + 0.1, rows=rows, replace=rng.choice([noise, blank, few, swapped]))


def other_text(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    """Another text from some step on, at once or over a while."""
    onset, over = rng.randint(90, 200), rng.choice([1, 1, 40])
    return _hard(f, seed, strength + 0.2, rows=ramp(onset - 1, over), text="changed")


def no_norm(f: Family, rng: random.Random, seed: int, strength: float) -> Planned:
    """No normalisation, at a rate at which it trains well without."""
    return _hard(f, seed, strength + 0.3, model=f.model(norm=NoNorm()))


def _hard(f: Family, seed: int, strength: float, **more: Any) -> Planned:
    return Planned(f, "none", seed, strength, hard=True, onset=None, **more)


# ---- which runs are made of a family

Make = Callable[[Family, random.Random, int, float], Planned]


def at(rate: float, fault: Callable[..., Planned]) -> Make:
    """A fault at a multiple of the good rate."""
    return lambda f, rng, seed, strength: fault(f, rng, seed, strength, rate)


@dataclass(frozen=True)
class Order:
    """Runs of one kind: how many, and the strengths to try in turn until one does as wanted; then those are of use."""

    make: Make
    count: int
    strengths: tuple[float, ...]
    diverges: bool | None = None  # wanted; None: any


def orders(edge: float, healthy_runs: int) -> list[Order]:
    """What to make of a family that trains well up to `edge` times its good rate."""
    return [
        Order(rate, 3, (1,), True),
        Order(poison, 3, (25, 15), True),
        Order(norm, 3, (edge, edge / 3, edge / 8), True),
        Order(batch, 2, (24, 40), True),
        Order(precision, 3, (3, 2), True),
        Order(at(edge, initialisation), 2, (5, 8), True),
        Order(healthy, healthy_runs, (0,), False),
        Order(high_rate, 1, (edge,), False),
        Order(recovering, 2, (4, 2), False),
        Order(other_text, 2, (0, 0), False),
        Order(no_norm, 1, (0,), False),
        Order(rate_low, 2, (100, 300)),
        Order(warmup, 2, (2 * edge, edge)),
        Order(at(1, branch), 1, (30,)),
        Order(at(edge, branch), 1, (30,)),
        Order(attention, 2, (16, 32)),
        Order(decay, 2, (0.05, 0.2)),
        Order(overfitting, 2, (1,)),
        Order(frozen, 3, (1,)),
        Order(at(1, initialisation), 3, (4, 8, 0.05)),
        Order(precision, 2, (4, 3)),
    ]
