"""Converts minutes to steps by timing a step, a validation, a sample and a checkpoint on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cloche.errors import SettingInvalid
from cloche.files import temporary_folder
from cloche.runs import Run
from cloche.train.optimizers.schedule import milestones
from cloche.train.recipe.recipe import Recipe

if TYPE_CHECKING:
    from cloche.train.pretrain import Trainer

TIMED = 8
USUAL = 1.1  # usual time of a step over the fastest of a few: other processes only ever slow it down
FEW = 8  # tokens per timed sample; longer ones are extrapolated
MOST_OVERHEAD = 0.5  # largest share of a short run's time for validations, samples and checkpoints


def trial_recipe(recipe: Recipe) -> Recipe:
    """The recipe of the trial that is timed: validation on one batch, samples of a few tokens."""
    return recipe.with_set(
        {
            "run.steps": TIMED,
            "evaluate.tokens": recipe.run.batch * recipe.run.length,
            "evaluate.sample_tokens": min(FEW, recipe.evaluate.sample_tokens),
            "schedule.ramp": 0.0,  # most updates have all their batches
        }
    )


def calibrate(recipe: Recipe, trial: Trainer) -> int:
    """Number of steps that fit into [run] minutes together with validations, samples, health and checkpoints.

    trial: a trainer of `trial_recipe(recipe)`, with the same shapes and threads. It is used up; its run is left as it
    was.

    >>> from pathlib import Path
    >>> from cloche.runs import Run
    >>> from cloche.train import Recipe, Trainer, calibrate
    >>> from cloche.train.machine.calibrate import trial_recipe
    >>> _ = Path("text.txt").write_text("The cat sat on the mat. " * 400)
    >>> recipe = Recipe().with_set({"data.paths": ["text.txt"], "tokenizer.vocab": 270, "run.steps": 4, "run.length": 16})
    >>> recipe = recipe.with_set({"run.threads": 1, "run.precision": "fp32", "evaluate.samples": 0, "evaluate.tokens": 64})
    >>> recipe = recipe.with_set({"model.width": 24, "model.body.depth": 1, "run.batch": 2, "checkpoint.count": 1})
    >>> trainer = Trainer.start(recipe, Run.create("run", recipe.to_toml()))
    >>> recipe = trainer.recipe.with_set({"run.minutes": 0.1})
    >>> calibrate(recipe, Trainer(trial_recipe(recipe), trainer.run)) > 10
    True
    """
    r, e = recipe.run, recipe.evaluate
    if r.minutes is None:
        raise SettingInvalid("[run] minutes is not set, so there is nothing to convert to steps; set it.")
    trial.update()  # the first compiles kernels and allocates memory
    step = USUAL * _fastest(trial.update, TIMED)
    health = _fastest(lambda: trial.measure_health(trial.source.next()), 2)
    validation = _fastest(trial.validate, 3) * min(e.tokens, len(trial.validation)) / (r.batch * r.length)
    sampling = _fastest(trial.sample, 2) * e.sample_tokens / trial.recipe.evaluate.sample_tokens
    saving = _saving(trial, trial.run.path)
    saves = len(milestones(10**6, recipe.checkpoint.count, early=True)) + 1  # as many as in a long run
    overhead = validation * (e.validations + 1) + sampling * (e.samples + 1) + saving * saves
    budget = r.minutes * 60
    return max(1, int((budget - min(overhead, MOST_OVERHEAD * budget)) / (step + health / recipe.log.health_every)))


def _saving(trial: Trainer, path: Path) -> float:
    """Seconds per checkpoint, on the run's own disk."""
    with temporary_folder(path / "trial") as scratch:
        start = time.perf_counter()
        trial.save(Run.create(scratch, ""))
        return time.perf_counter() - start


def _fastest(action: Callable[[], object], times: int) -> float:
    """Seconds of the fastest of `times` calls."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
