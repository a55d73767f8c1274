"""From minutes to steps: what a step, a validation, a sample and a checkpoint cost on this machine, measured, not guessed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from statistics import median

from glasshouse.runs import Run
from glasshouse.train.recipe import Recipe
from glasshouse.train.schedule import milestones

WARM = 1  # steps not counted: the first builds kernels and touches memory
TIMED = 5
FEW = 8  # tokens a sample, of which the cost of longer ones is told
MOST_OVERHEAD = 0.5  # share of the time that validations, samples and checkpoints may claim of a short run


def calibrate(recipe: Recipe, run: Run) -> int:
    """The number of steps that `[run] minutes` have room for, with validations, samples, health and checkpoints.

    Runs a few throwaway steps of a fresh trainer, of the same shapes and on the same threads; nothing of the run is touched.
    """
    from glasshouse.train.loop import Trainer

    r = recipe.run
    assert r.minutes is not None, "a recipe without minutes has its steps"
    one = r.batch * r.length  # tokens
    brief = {"run.steps": WARM + TIMED, "run.validation_tokens": one, "run.sample_tokens": min(FEW, r.sample_tokens)}
    trial = Trainer(recipe.with_set(brief), run)
    step = median([_seconds(trial.update) for _ in range(WARM + TIMED)][WARM:])
    health = max(0.0, _seconds(lambda: trial.update(measure=True)) - step)
    validation = _seconds(trial.validate) * min(r.validation_tokens, len(trial.validation)) / one
    sampling = _seconds(trial.sample) * r.sample_tokens / trial.recipe.run.sample_tokens
    with tempfile.TemporaryDirectory(prefix=".trial-", dir=run.path) as scratch:  # on the run's own disk
        saving = _seconds(lambda: trial.save(Run.create(scratch, "")))
    saves = len(milestones(10**6, r.checkpoints, early=True)) + 1  # as many as there are in a long run
    overhead = validation * (r.validations + 1) + sampling * (r.samples + 1) + saving * saves
    budget = r.minutes * 60
    return max(1, int((budget - min(overhead, MOST_OVERHEAD * budget)) / (step + health / r.health_every)))


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
