"""What rules of early warning are graded on: the per-step log of a run, and beside it the truth of what was done to it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloche.diagnose import first_divergence
from cloche.runs import Run
from cloche.train import Optimizer, Recipe

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """What was done to a run. onset: the step at which the fault begins, 0 for a fault of the recipe; None without one."""

    cause: str = "none"
    family: str = ""
    held_out: bool = False
    hard: bool = False
    onset: int | None = None


@dataclass(frozen=True)
class Trace:
    """A run step by step; entry i is of step i + 1, and what was not finite is inf.

    loss, grad_norm (before clipping), update_norm [step]; grad_norms, update_norms [step, part]. warned: the steps of its
    own warnings.
    """

    name: str
    truth: Truth
    loss: Floats
    grad_norm: Floats
    update_norm: Floats
    grad_norms: Floats
    update_norms: Floats
    parts: tuple[str, ...] = ()
    warned: tuple[int, ...] = ()
    folder: Path | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.loss)

    @cached_property
    def diverged(self) -> int | None:
        """The step at which it diverged, by the definition of `first_divergence`."""
        return first_divergence([float(x) for x in self.loss])

    @property
    def healthy(self) -> bool:
        return self.truth.cause == "none"

    @cached_property
    def optimizer(self) -> Optimizer:
        """That of its recipe, whose third parties' parts must have been imported."""
        if self.folder is None:
            return Recipe().optimizer
        return Recipe.parse(Run.open(self.folder).recipe).optimizer

    def until(self, step: int) -> Trace:
        """The trace as it was after `step` steps: what a rule could have seen by then."""
        names = ("loss", "grad_norm", "update_norm", "grad_norms", "update_norms")
        return replace(self, **{name: getattr(self, name)[:step] for name in names})


def _column(values: Sequence[Any]) -> Floats:
    """[step] or [step, part]. What is missing throughout is nan: the optimiser does not tell. Otherwise it was not finite."""
    width = next((len(value) for value in values if isinstance(value, list)), None)
    rows = values if width is None else [[None] * width if value is None else value for value in values]
    array = np.array(rows, dtype=np.float64)  # None becomes nan
    return array if np.isnan(array).all() else np.where(np.isfinite(array), array, np.inf)


def read(folder: Path | str) -> Trace:
    """The trace of a run folder with a truth.json. Raises ValueError if steps are missing or the truth does not fit."""
    folder = Path(folder)
    run = Run.open(folder)
    known = json.loads((folder / "truth.json").read_text())
    records = run.read_log("steps")
    if not records:
        raise ValueError(f"{folder} has no log/steps.jsonl")
    rows: dict[str, list[Any]] = {"loss": [], "grad_norm": [], "update_norm": [], "grad_norms": [], "update_norms": []}
    for record in records:
        if record["step"] - len(record["loss"]) != len(rows["loss"]):
            raise ValueError(f"{folder}: the record of step {record['step']} does not follow on the one before it")
        for name, values in rows.items():
            values.extend(record[name])
    warned = [event["step"] for event in run.read_log("events") if event["kind"] == "warning" and "quantity" in event]
    trace = Trace(
        folder.name,
        Truth(known["cause"], known["family"], known["held_out"], known["hard"], known["onset"]),
        parts=tuple(next((r["parts"] for r in records if "parts" in r), ())),
        warned=tuple(warned),
        folder=folder,
        **{name: _column(values) for name, values in rows.items()},
    )
    if trace.diverged != known["diverged"]:
        raise ValueError(f"{folder}: truth.json has it diverge at {known['diverged']}, its losses at {trace.diverged}")
    return trace


def read_all(folder: Path | str) -> list[Trace]:
    """Of all finished runs of a folder, by name."""
    return [read(path.parent) for path in sorted(Path(folder).glob("*/truth.json"))]


def families(traces: Iterable[Trace]) -> list[str]:
    return sorted({trace.truth.family for trace in traces})


def synthetic(seed: int, diverges: bool, steps: int = 160, onset: int = 90, lead: int = 15, parts: int = 4) -> Trace:
    """A falling, noisy loss. If it diverges, update and gradient norms of one part begin to grow 7% a step at `onset`, and
    the loss begins to climb `lead` steps later."""
    rng = np.random.default_rng(seed)
    step = np.arange(1, steps + 1)
    loss = 2.5 + 3.5 * np.exp(-step / 40) + rng.normal(0, 0.04, steps)
    gradients = rng.lognormal(-0.5, 0.12, (steps, parts)) * (0.4 + np.exp(-step / 30))[:, None]
    updates = rng.lognormal(-3.0, 0.04, (steps, parts))
    if diverges:
        grown = np.maximum(0, step - onset + 1)
        gradients[:, 1] *= 1.07**grown
        updates[:, 1] *= 1.07**grown
        loss += np.minimum(3 * loss, np.expm1(0.04 * np.maximum(0, step - onset - lead + 1)))
    norms = (np.sqrt((x**2).sum(1)) for x in (gradients, updates))
    truth = Truth("rate" if diverges else "none", f"family {seed % 3}", onset=onset if diverges else None)
    names = ("embed", *map(str, range(parts - 2)), "head")
    return Trace(f"synthetic {seed}", truth, loss, *norms, gradients, updates, names)
