"""Remedies tried on a run that broke: its last steps trained again with one change each, and without any as the control."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from cloche.diagnose.divergence import STAYS
from cloche.diagnose.history import History, read_history
from cloche.diagnose.proving.batches import WithoutBatches
from cloche.diagnose.proving.logged import differences, logged_losses
from cloche.diagnose.proving.proof import LOWER, Attempt, Proof, Retrained, divergence, judged
from cloche.diagnose.proving.remedy import Remedy
from cloche.diagnose.proving.usual import usual_remedies
from cloche.errors import ClocheError, require_whole
from cloche.runs import Checkpoint, Run
from cloche.train import Replay, aside

Progress = Callable[[float, float, str], None]
MOST_ATTEMPTS = 3  # checkpoints that are replayed from
BEYOND = 40  # steps at least after a divergence is certain
LATER = 2  # times as many steps as it took to diverge, in which a remedy that only delays it is found out
UNKNOWN = 100  # steps after an onset that no divergence followed


def silent(done: float, total: float, note: str) -> None:
    """Progress that nobody is told of."""


def prove_remedies(
    run: Run | Path | str,
    onset: int,
    remedies: Sequence[Remedy] | None = None,
    checkpoint: int | None = None,
    horizon: int | None = None,
    on_progress: Progress = silent,
) -> Proof:
    """Trains the steps around `onset`, counted from 1, again from the last checkpoint before it: without a change, which must
    give the logged weights and losses bit for bit, and with each remedy alone, on the same batches and from the same random
    state. A remedy that survives counts as a proof only if the replay without a change diverges, and one with a change that
    should not matter (an innocent batch left out) does too.

    remedies: `usual_remedies(onset)` unless given; those with nothing to change in this run are left out. checkpoint: the step
    of the one to begin from; else, if nothing survives, the one before is tried, at most three. horizon: steps after the
    onset, by default enough to see a divergence that comes later by twice the steps that it took, up to the end of the run. A
    replay ends once it has diverged. Nothing is written into the run, and torch's random state and threads are as before.
    Where nothing can be replayed exactly, the proof says why in `refused`. Raises ClocheError for an onset or checkpoint that
    the run does not have.

    >>> from pathlib import Path
    >>> from cloche.diagnose import LowerRate, prove_remedies
    >>> from cloche.runs import Run
    >>> from cloche.train import Recipe, Trainer
    >>> _ = Path("text.txt").write_text("The cat sat on the mat. " * 400)
    >>> recipe = Recipe().with_set({"data.paths": ["text.txt"], "tokenizer.vocab": 270, "run.steps": 4, "run.length": 16})
    >>> recipe = recipe.with_set({"run.threads": 1, "run.precision": "fp32", "evaluate.samples": 0, "evaluate.tokens": 64})
    >>> recipe = recipe.with_set({"model.width": 24, "model.body.depth": 1, "run.batch": 2, "checkpoint.count": 1})
    >>> for record in Trainer.start(recipe.with_set({"log.every": 1}), Run.create("run", recipe.to_toml())):
    ...     pass
    >>> prove_remedies("run", onset=2, remedies=[LowerRate()]).sentence
    'Replayed from step 0, it does not diverge, and neither did the run, so no remedy can be proved.'
    """
    run = run if isinstance(run, Run) else Run.open(run)
    require_whole(least=1, onset=onset)
    tried = list(usual_remedies(onset) if remedies is None else remedies)
    history = read_history(run)
    logged = logged_losses(history)
    diverged = divergence(logged[: onset - 1], logged[onset - 1 :])
    if horizon is None:
        took = 0 if diverged is None else max(0, diverged - onset)
        horizon = UNKNOWN if diverged is None else took + STAYS + max(BEYOND, LATER * took)
    until = onset + horizon
    saved = [each for each in run.checkpoints() if each.step < onset]
    if checkpoint is not None:
        saved = [run.checkpoint(checkpoint)]
    if not saved:
        return Proof(
            onset, until, refused=f"{run.path} has no checkpoint before step {onset:,}, so nothing can be replayed."
        )
    proving = _Proving(run, onset, until, history, on_progress)
    try:
        with aside():
            return proving.prove(saved, tried)
    except _Refused as error:
        return Proof(onset, until, tuple(proving.attempts), refused=f"{str(error).rstrip('.')}.")


class _Refused(Exception):
    """Why nothing can be proved."""


class _Proving:
    def __init__(self, run: Run, onset: int, until: int, history: History, on_progress: Progress) -> None:
        self.run, self.onset, self.until, self.history, self.on_progress = run, onset, until, history, on_progress
        self.logged = logged_losses(history)
        self.attempts, self.tried, self.done, self.total = list[Attempt](), set[Remedy](), 0, 0

    def prove(self, saved: Sequence[Checkpoint], remedies: Sequence[Remedy]) -> Proof:
        early = [each for each in remedies if each.from_start]
        late = [each for each in remedies if not each.from_start]
        candidates = [each for each in saved[::-1] if late][:MOST_ATTEMPTS]
        for checkpoint in candidates:
            self.attempt(checkpoint, late + (early if checkpoint.step == 0 else []))
            if self.attempts and self.attempts[-1].survivors:
                break
        first = self.run.checkpoints()[0]
        if early and first.step == 0 and not any(each.begun == 0 for each in self.attempts):
            self.attempt(first, early)
        left_out = [each.phrase for each in remedies if each not in self.tried]
        return Proof(self.onset, self.until, tuple(self.attempts), left_out=tuple(left_out))

    def attempt(self, checkpoint: Checkpoint, remedies: Sequence[Remedy]) -> None:
        """The replays from one checkpoint, if a remedy applies there."""
        try:
            replay = Replay(self.run, checkpoint, self.until)
        except ClocheError as error:
            raise _Refused(str(error)) from error
        trainer = replay.trainer
        self.until = min(self.until, trainer.steps)
        chosen = [each for each in remedies if each.applies(trainer)]
        if not chosen:
            return
        self.tried |= set(chosen)
        self.total += (self.until - checkpoint.step) * (1 + len(chosen))
        control = self.replayed(replay, None, None)
        if (why := differences(replay, control.losses, self.history)) is not None:
            raise _Refused(why)
        found = [self.replayed(replay, each, control) for each in chosen]
        null = None
        if any(each.survives and (control.diverged or each.loss < LOWER * control.loss) for each in found):
            self.total += self.until - checkpoint.step
            null = self.replayed(replay, self.innocent(checkpoint.step, chosen), control)
        self.attempts.append(Attempt(checkpoint.step, control, null, tuple(found)))

    def innocent(self, begun: int, remedies: Sequence[Remedy]) -> Remedy:
        """A batch left out that no remedy names: the first after the checkpoint, or else after the onset."""
        named = {self.onset, *(step for each in remedies if isinstance(each, WithoutBatches) for step in each.steps)}
        return WithoutBatches((next(step for step in range(begun + 1, begun + 2 + len(named)) if step not in named),))

    def replayed(self, replay: Replay, remedy: Remedy | None, control: Retrained | None) -> Retrained:
        """One replay, which ends once it has diverged."""
        trainer = replay.restart(monitors=False)
        note = remedy.apply(trainer) if remedy else ""
        before, losses = self.logged[: trainer.step], list[float]()
        begin, name = self.done, remedy.phrase if remedy else "no change"
        while trainer.step < self.until:
            update = replay.update()
            losses.append(update.loss if update.finite else math.inf)
            if not update.finite:
                break
            if len(losses) % STAYS == 0 and divergence(before, losses) is not None:
                break
            self.on_progress(begin + len(losses), self.total, f"{name}: step {trainer.step:,}")
        self.done = begin + self.until - replay.checkpoint.step
        return judged(remedy, before, losses, self.onset, control, note)
