"""Steps of a finished or stopped run trained again from a checkpoint, bit for bit, without writing into the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from cloche.errors import ResumeRefused, RunDamaged
from cloche.runs import Checkpoint, Run, checkpoint_name
from cloche.train.checkpoint import fill_checkpoint
from cloche.train.intact import require_readable
from cloche.train.loop import Update
from cloche.train.monitors.pace import Pace
from cloche.train.monitors.pretraining import HealthCallback, LogCallback
from cloche.train.monitors.provenance import session_facts, weights_hash
from cloche.train.monitors.records import read_records
from cloche.train.pretrain import Trainer
from cloche.train.recipe.recipe import Recipe

FREE = ("imports", "question", "log", "evaluate", "checkpoint")  # sections that no update depends on
MONITORS = (LogCallback, HealthCallback)  # they measure, and change nothing
INEXACT = "so a replay here would not be exact"


class Replay:
    """Trains from a checkpoint of a run towards `until`, as the run did. `differing` are the steps whose weights the log
    has another hash of.

    Raises ClocheError, before anything is trained, if the replay would not be exact: another version of torch, another
    processor, settings that changed on the way, or files that are not as they were written.

    >>> from pathlib import Path
    >>> from cloche.runs import Run
    >>> from cloche.train import Recipe, Replay, Trainer, aside
    >>> _ = Path("text.txt").write_text("The cat sat on the mat. " * 400)
    >>> recipe = Recipe().with_set({"data.paths": ["text.txt"], "tokenizer.vocab": 270, "run.steps": 4, "run.length": 16})
    >>> recipe = recipe.with_set({"run.threads": 1, "run.precision": "fp32", "evaluate.samples": 0, "evaluate.tokens": 64})
    >>> recipe = recipe.with_set({"model.width": 24, "model.body.depth": 1, "run.batch": 2, "checkpoint.count": 1})
    >>> run = Run.create("run", recipe.to_toml())
    >>> last = [record for record in Trainer.start(recipe, run) if "weights" in record][-1]
    >>> with aside():
    ...     replay = Replay(run, run.checkpoint(0), until=4)
    ...     replay.advance(4)
    >>> replay.weights.startswith(last["weights"]), replay.compared, replay.differing
    (True, [4], [])
    """

    def __init__(self, run: Run, checkpoint: Checkpoint, until: int) -> None:
        self.run, self.checkpoint, self.until = run, checkpoint, until
        self.events = read_records(run, "events")
        self.recipe = _recipe_of(run, _sessions(self.events, checkpoint.step, until))
        require_readable(run, checkpoint)
        records = read_records(run, "metrics")
        self.logged = {record["step"]: str(record["weights"]) for record in records if "weights" in record}
        self.times = {record["step"]: float(record["time"]) for record in records if record.get("time") is not None}
        self.restart()

    def restart(self, monitors: bool = True) -> Trainer:
        """Goes back to the checkpoint, whose files were compared before; returns the new trainer. monitors: whether
        validation, samples and health are measured on the way, which changes nothing but takes time."""
        self.trainer = trainer = Trainer(self.recipe, self.run)
        trainer.restore(self.checkpoint)
        trainer.plan.read_replans(self.checkpoint.step, self.events, self.until)
        if not monitors:
            trainer.callbacks = [each for each in trainer.callbacks if not isinstance(each, MONITORS)]
        self.compared, self.differing = list[int](), list[int]()
        return trainer

    @property
    def weights(self) -> str:
        return weights_hash(self.trainer.net)

    def advance(self, step: int, told: Callable[[int], object] = lambda step: None) -> None:
        """Trains until `step`; `told` is called with each step."""
        while self.trainer.step < step:
            if not self.update().finite:
                raise RunDamaged(
                    f"{self.run.path} did not diverge at step {self.trainer.step + 1} and its replay does; `cloche verify` "
                    "says whether its files are as they were written."
                )
            told(self.trainer.step)

    def update(self) -> Update:
        """One step, compared with the log; one that is not finite is not applied."""
        trainer = self.trainer
        update = trainer.update()
        if not update.finite:
            return update
        trainer.plan.revise(trainer.step, 0.0, 0.0)  # only re-plans of the log
        trainer.steps_log.due(trainer.logs_now)
        if (logged := self.logged.get(trainer.step)) is not None:
            self.compared.append(trainer.step)
            if not self.weights.startswith(logged):
                self.differing.append(trainer.step)
        for callback in trainer.callbacks:  # validation and samples change nothing
            if callback.due(trainer.step) and not isinstance(callback, LogCallback):
                callback.run(trainer.step)
        return update

    def save(self, within: Path | None = None) -> Path:
        """Saves a checkpoint of the step that was reached, in the run or in another folder."""
        trainer = self.trainer
        time = max((time for step, time in self.times.items() if step <= trainer.step), default=0.0)
        trainer.pace = Pace(trainer.step, time)
        with self.run.new_checkpoint(trainer.step, past=within or True) as folder:
            fill_checkpoint(folder, self.run, trainer.net, trainer.optimizer, trainer._state())
        if within is not None:
            return within / checkpoint_name(trainer.step)
        self.run.anchor_logs()
        return self.run.checkpoint(trainer.step).path


@contextmanager
def aside() -> Iterator[None]:
    """A context after which torch's random state and number of threads are as before.

    >>> import torch
    >>> from cloche.train import aside
    >>> before = torch.get_rng_state()
    >>> with aside():
    ...     _ = torch.rand(3)
    >>> torch.equal(torch.get_rng_state(), before)
    True
    """
    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(threads)


def _sessions(events: list[dict[str, Any]], begin: int, end: int) -> list[dict[str, Any]]:
    """The first events of the sessions that trained steps after `begin` up to `end`."""
    found = [event for event in events if event.get("kind") in ("start", "resume")]
    until = [*(int(event["step"]) for event in found[1:]), end]
    return [
        event for event, last in zip(found, until, strict=False) if int(event["step"]) < end and max(last, 0) > begin
    ]


def _recipe_of(run: Run, sessions: list[dict[str, Any]]) -> Recipe:
    """The recipe that these sessions trained by. Raises ClocheError if they had several, or were another torch's."""
    where = f"{run.path}/log/events.jsonl"
    recipes = [Recipe.parse(str(event["recipe"]), where) for event in sessions if "recipe" in event]
    if len(recipes) < len(sessions) and any(" -> " in str(event.get("message")) for event in sessions):
        raise ResumeRefused(f"{run.path} was resumed with other settings, which its log does not have, {INEXACT}.")
    recipe = recipes[0] if recipes else Recipe.parse(run.recipe, f"{run.path}/recipe.toml")
    for other in recipes[1:]:
        changes = [change for change in other.changes_from(recipe) if change.partition(".")[0] not in FREE]
        if changes:
            raise ResumeRefused(
                f"{run.path} was resumed with {changes[0]} after the checkpoint to replay from, {INEXACT}; restore the "
                "checkpoint that it was resumed from."
            )
    here = session_facts("")
    for event in sessions:
        for what in ("torch", "processor"):
            if event.get(what, here[what]) != here[what]:
                raise ResumeRefused(
                    f"{run.path} was trained with {what} {event[what]}, and this is {here[what]}, {INEXACT}; replay it there."
                )
        if event.get("threads", recipe.run.threads) != recipe.run.threads:
            raise ResumeRefused(
                f"{run.path} was trained by {event['threads']} threads, and its recipe says {recipe.run.threads}, {INEXACT}."
            )
    return recipe
