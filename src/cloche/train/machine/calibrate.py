"""From minutes to steps: what a step, a validation, a sample and a checkpoint cost on this machine, measured, not guessed."""

from __future__ import annotations

import time
from collections.abc import Callable

from cloche.files import temporary_folder
from cloche.runs import Run
from cloche.train.optimizers.schedule import milestones
from cloche.train.recipe import Recipe

TIMED = 8
USUAL = 1.1  # what a step usually takes, over the fastest of a few: other work comes and goes, and only ever slows
FEW = 8  # tokens a sample, of which the cost of longer ones is told
MOST_OVERHEAD = 0.5  # share of the time that validations, samples and checkpoints may claim of a short run


def calibrate(recipe: Recipe, run: Run) -> int:
    """The number of steps that `[run] minutes` have room for, with validations, samples, health and checkpoints.

    Runs a few throwaway steps of a fresh trainer, of the same shapes and on the same threads; nothing of the run is touched.
    """
    from cloche.train.loop import Trainer

    r = recipe.run
    assert r.minutes is not None, "a recipe without minutes has its steps"
    one = r.batch * r.length  # tokens
    brief = {"run.steps": TIMED, "run.validation_tokens": one, "run.sample_tokens": min(FEW, r.sample_tokens)}
    trial = Trainer(recipe.with_set(brief), run)
    trial.update()  # the first builds kernels and touches memory
    step = USUAL * _least(trial.update, TIMED)
    health = max(0.0, _least(lambda: trial.update(measure=True), 2) - step)
    validation = _least(trial.validate, 3) * min(r.validation_tokens, len(trial.validation)) / one
    sampling = _least(trial.sample, 2) * r.sample_tokens / trial.recipe.run.sample_tokens
    with temporary_folder(run.path / "trial") as scratch:  # on the run's own disk
        start = time.perf_counter()
        trial.save(Run.create(scratch, ""))
        saving = time.perf_counter() - start
    saves = len(milestones(10**6, r.checkpoints, early=True)) + 1  # as many as there are in a long run
    overhead = validation * (r.validations + 1) + sampling * (r.samples + 1) + saving * saves
    budget = r.minutes * 60
    return max(1, int((budget - min(overhead, MOST_OVERHEAD * budget)) / (step + health / r.health_every)))


def _least(action: Callable[[], object], times: int) -> float:
    """Seconds of the fastest of so many calls."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
