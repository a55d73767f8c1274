"""From minutes to steps: what a step, a validation, a sample and a checkpoint cost on this machine, measured, not guessed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cloche.files import temporary_folder
from cloche.runs import Run
from cloche.train.optimizers.schedule import milestones
from cloche.train.recipe.recipe import Recipe

if TYPE_CHECKING:
    from cloche.train.pretrain import Trainer

TIMED = 8
USUAL = 1.1  # what a step usually takes, over the fastest of a few: other work comes and goes, and only ever slows
FEW = 8  # tokens a sample, of which the cost of longer ones is told
MOST_OVERHEAD = 0.5  # share of the time that validations, samples and checkpoints may claim of a short run


def brief(recipe: Recipe) -> Recipe:
    """The recipe of the throwaway run that is timed: one batch to validate on, samples of a few tokens."""
    return recipe.with_set(
        {
            "run.steps": TIMED,
            "evaluate.tokens": recipe.run.batch * recipe.run.length,
            "evaluate.sample_tokens": min(FEW, recipe.evaluate.sample_tokens),
        }
    )


def calibrate(recipe: Recipe, trial: Trainer) -> int:
    """The number of steps that `[run] minutes` have room for, with validations, samples, health and checkpoints.

    trial: one of `brief(recipe)`, of the same shapes and on the same threads; it is spoilt, and nothing of its run is touched.
    """
    r, e = recipe.run, recipe.evaluate
    assert r.minutes is not None, "a recipe without minutes has its steps"
    trial.update()  # the first builds kernels and touches memory
    step = USUAL * _least(trial.update, TIMED)
    health = _least(lambda: trial.measure_health(trial.source.next()), 2)
    validation = _least(trial.validate, 3) * min(e.tokens, len(trial.validation)) / (r.batch * r.length)
    sampling = _least(trial.sample, 2) * e.sample_tokens / trial.recipe.evaluate.sample_tokens
    saving = _saving(trial, trial.run.path)
    saves = len(milestones(10**6, recipe.checkpoint.count, early=True)) + 1  # as many as there are in a long run
    overhead = validation * (e.validations + 1) + sampling * (e.samples + 1) + saving * saves
    budget = r.minutes * 60
    return max(1, int((budget - min(overhead, MOST_OVERHEAD * budget)) / (step + health / recipe.log.health_every)))


def _saving(trial: Trainer, path: Path) -> float:
    """Seconds of a checkpoint on the run's own disk."""
    with temporary_folder(path / "trial") as scratch:
        start = time.perf_counter()
        trial.save(Run.create(scratch, ""))
        return time.perf_counter() - start


def _least(action: Callable[[], object], times: int) -> float:
    """Seconds of the fastest of so many calls."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
