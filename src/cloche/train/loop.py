"""The training loop: step, clip, spike guard, log, checkpoint, resume. The network, data, objective, optimiser and
callbacks are passed in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn

from cloche.errors import NotFinite
from cloche.runs import Checkpoint, Run, checkpoint_name
from cloche.train.checkpoint import restore_checkpoint, save_checkpoint
from cloche.train.machine.gemm import gemm_rates
from cloche.train.machine.stopping import signals_stop
from cloche.train.monitors import journal
from cloche.train.monitors.callbacks import Callback, When
from cloche.train.monitors.journal import Journal, Record
from cloche.train.monitors.pace import Pace
from cloche.train.monitors.provenance import DIGITS, session_facts, weights_hash
from cloche.train.monitors.spikes import SpikeGuard
from cloche.train.monitors.steps import StepsLog, of_older
from cloche.train.monitors.warning import Alarm, EarlyWarning
from cloche.train.objectives.objective import Term, total_loss
from cloche.train.optimizers.optimizer import Reports
from cloche.train.optimizers.stepper import Stepper
from cloche.train.plan import Milestones, StepPlan

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Source(Protocol):
    """Where batches come from. `state` is plain JSON; after `restore`, `next` continues with the same batches. The figures of
    one that `Reports` are added to the records of metrics.jsonl."""

    def next(self) -> Any: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...


class Trainable(Protocol):
    """An objective: weighted terms of the loss by name. Spikes are detected in the term called "loss". It may be one that
    `Weighs` and one that `Watches` too."""

    def terms(self, net: Any, batch: Any) -> dict[str, Term]: ...


@runtime_checkable
class Weighs(Protocol):
    """An objective by whose weights batches that make one update count; without them all count the same."""

    def weight(self, batch: Any) -> float: ...


@runtime_checkable
class Watches(Protocol):
    """An objective with callbacks of its own, which are run after those of the loop."""

    def callbacks(self, loop: Any) -> Sequence[Callback]: ...


@dataclass(frozen=True)
class Setup:
    """Settings of a loop: steps between log records, number of checkpoints, precision, device, and the tokens and
    FLOPs of one batch (0: not logged).

    >>> from cloche.train import Setup
    >>> Setup(log_every=5, precision="bf16").dtype
    torch.bfloat16
    """

    log_every: int = 10
    checkpoints: int = 10
    precision: str = "fp32"
    device: str = "cpu"
    tokens: int = 0
    flops: float = 0.0

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of matrix products."""
        return PRECISIONS[self.precision]


class Update(NamedTuple):
    """The result of one step. `applied` is False if the loss spiked or the loss or gradient was not finite."""

    loss: float
    grad_norm: float
    rates: dict[str, float]  # learning rates by group
    others: dict[str, float]  # the other terms of the loss, unweighted
    applied: bool
    limit: float = math.inf  # the loss above which the step is a spike
    alarm: Alarm | None = None  # what warns of a divergence

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class Loop:
    """A training run. Iterating over it trains, and yields each record after it is logged: {"log": "metrics",
    **record}, but for those of steps.jsonl; `steps_log.last` has the latest step.

    Ctrl-C finishes the current step, saves a checkpoint and ends the iteration; so does breaking out of the `for`
    loop. A loss or gradient that is not finite raises ClocheError, and that step's update is not applied.

    >>> import torch
    >>> from cloche.runs import Run
    >>> from cloche.train import WSD, AdamW, Loop, Setup, StepPlan, Stepper, Term
    >>> class Points:
    ...     def next(self):
    ...         return torch.arange(4.0)[:, None]
    ...     def state(self):
    ...         return {}
    ...     def restore(self, state):
    ...         pass
    >>> class SquaredError:
    ...     def terms(self, net, x):
    ...         return {"loss": Term((net(x) - 3 * x).square().mean())}
    >>> net = torch.nn.Linear(1, 1)
    >>> optimizer, plan, setup = Stepper(net, AdamW(lr=0.1)), StepPlan(100, WSD()), Setup(checkpoints=1)
    >>> loop = Loop(Run.create("run", ""), net, Points(), SquaredError(), optimizer, plan, setup=setup)
    >>> losses = [record["loss"] for record in loop if record["log"] == "metrics"]
    >>> len(losses), losses[-1] < 0.1 * losses[0]
    (10, True)
    """

    remedy = "lower the learning rate"  # advice if the loss is not finite
    clock: Callable[[], float] = staticmethod(time.perf_counter)

    def __init__(
        self,
        run: Run,
        net: nn.Module,
        source: Source,
        objective: Trainable,
        optimizer: Stepper,
        plan: StepPlan,
        callbacks: Sequence[Callback] = (),
        setup: Setup = Setup(),
    ) -> None:
        self.run, self.net, self.source, self.objective = run, net, source, objective
        self.optimizer, self.plan, self.setup = optimizer, plan, setup
        self.callbacks = [*callbacks, *(objective.callbacks(self) if isinstance(objective, Watches) else ())]
        self.guard = SpikeGuard()
        self.step, self.pace = 0, Pace(0, 0.0, self.clock)
        self.taken = 0  # batches taken from the source by the updates so far
        self.saves: When = Milestones(plan, setup.checkpoints)
        self.changed = ""  # settings that differ from the session before, for the event of resuming
        self.settings = ""  # the recipe as text, for the same event
        self.resumed: str | None = None  # name of the checkpoint that was resumed
        self.steps_log, self.warning = StepsLog(net, optimizer), EarlyWarning(optimizer.part.tolerance)
        self._stop = False
        self._saving = 0.0  # seconds that the last checkpoint took

    @property
    def steps(self) -> int:
        """Number of planned steps."""
        return self.plan.steps

    def stop(self) -> None:
        """Save and end after the current step. Safe to call from a signal handler or another thread."""
        self._stop = True

    @property
    def logs_now(self) -> bool:
        """Whether records of training are logged after this step."""
        return self.step % self.setup.log_every == 0 or self.step == self.steps

    @property
    def interrupted(self) -> bool:
        """True after `stop`, Ctrl-C or SIGTERM."""
        return self._stop

    # ---- the loop

    def __iter__(self) -> Iterator[Record]:
        rates = gemm_rates(self.setup.device) if self.setup.flops else {}
        peak = max(rates.values(), default=math.inf)
        self.pace = Pace(self.step, self.pace.earlier, self.clock)
        self.plan.begin(self.step, self.pace.time)
        with self.run.training(), Journal(self.run) as book, signals_stop(self), self.steps_log.ending_in(book):
            # Killed before the event was logged:
            if self.resumed and not journal.has_event(self.run, "checkpoint", self.step):
                yield self._saved(book)
            message = journal.session_message(self.setup.precision, self._where(), rates) + self.changed
            kind, known = "resume" if self.resumed else "start", sorted(self.plan.replans.items())
            facts = session_facts(self.settings)
            yield book.event(self.step, self.pace.time, kind, message, **facts, **({"replans": known} if known else {}))
            try:
                if not self.resumed:
                    yield from self._run_callbacks(book)
                while self.step < self.steps and not self._stop:
                    # All records of a step are on disk before the first is yielded, after which the caller may leave.
                    yield from self._advance(book, peak)
            except GeneratorExit:
                if not self._is_saved():
                    self._saved(book)
                book.event(self.step, self.pace.time, "stopped", f"left at step {self.step} of {self.steps}")
                raise
            yield from self._end(book)

    def _advance(self, book: Journal, peak: float) -> list[Record]:
        """One step; returns all of its records."""
        begin, taken = self.clock(), self.taken
        update = self.update()
        took = self.clock() - begin
        self.pace.add(took, self.taken - taken)
        self.plan.took(took)
        if not update.finite:
            message = journal.nonfinite_message(self.step + 1, update.loss, update.grad_norm, self.run, self.remedy)
            book.event(self.step + 1, self.pace.time, "nonfinite", message)
            raise NotFinite(message)
        records = []
        if not update.applied:
            message = journal.spike_message(self.step, update.loss, update.limit)
            records.append(book.event(self.step, self.pace.time, "spike", message))
        if update.alarm is not None:
            records.append(book.warned(self.pace.time, update.alarm, self.steps_log.parts))
        replanned = self._replan(book)
        if self.logs_now:
            records.append(book.log("metrics", self._metrics(update, peak)))
        if (steps := self.steps_log.due(self.logs_now)) is not None:
            book.log("steps", dict(steps))
        return records + replanned + self._run_callbacks(book, save=bool(replanned)) + book.notices()

    def update(self) -> Update:
        """One step: batch, loss, gradient, and the update, unless the loss spiked or is not finite."""
        rates = self.optimizer.set_rate(self.plan.rate(self.step))
        batches = [self.source.next() for _ in range(self.plan.batches(self.step))]
        self.optimizer.zero_grad()
        values = self.backward(batches)
        norm = self.optimizer.clip_gradient()
        update = Update(values.pop("loss"), norm, rates, values, applied=False, limit=self.guard.limit())
        if update.finite:
            self.step, self.taken = self.step + 1, self.taken + len(batches)
            if not self.guard.is_spike(update.loss):
                self._apply(update, batches[0])
                update = update._replace(applied=True, rates=self.optimizer.rates())
        seen = self.steps_log.add(self.step + (not update.finite), update.loss, norm, update.applied)
        return update._replace(alarm=self.warning.add(self.step, seen)) if update.finite else update

    def _apply(self, update: Update, batch: Any) -> None:
        for callback in self.callbacks:
            if callback.due(self.step):
                callback.before(batch, update.grad_norm)
        self.optimizer.step(update.loss, self.plan.progress(self.step - 1) / self.plan.turns[0][1])

    def backward(self, batches: Sequence[Any]) -> dict[str, float]:
        """Adds the gradient of the mean loss over all targets of the batches, as if they were one; returns the terms."""
        values: dict[str, float] = {}
        for batch, share in zip(batches, self._shares(batches), strict=True):
            with self.autocast():
                terms = self.objective.terms(self.net, batch)
            total = total_loss(terms)
            (total if share == 1 else share * total).backward()
            for name, term in terms.items():
                values[name] = values.get(name, 0.0) + share * term.value.item()
        return values

    def _shares(self, batches: Sequence[Any]) -> list[float]:
        """Each batch's share of the weights of all."""
        weigh = self.objective.weight if isinstance(self.objective, Weighs) and len(batches) > 1 else None
        weights = [float(weigh(batch)) if weigh else 1.0 for batch in batches]
        total = sum(weights)
        return [weight / total if total else 1 / len(batches) for weight in weights]

    def autocast(self) -> torch.autocast:
        """Autocast context for the run's precision."""
        dtype = self.setup.dtype
        return torch.autocast(self.setup.device, torch.bfloat16, enabled=dtype == torch.bfloat16)

    def _replan(self, book: Journal) -> list[Record]:
        """The event of a changed plan. A checkpoint in the same step makes the change permanent."""
        before = self.steps
        beside = self._saving * self.saves.left(self.step)
        beside += sum(callback.seconds * callback.left(self.step) for callback in self.callbacks)
        if self.plan.revise(self.step, self.pace.time, beside) is None:
            return []
        message = journal.replan_message(before, self.steps, self.plan.seconds)
        return [book.event(self.step, self.pace.time, "replan", message, steps=self.steps)]

    # ---- callbacks and events

    def _run_callbacks(self, book: Journal, save: bool = False) -> list[Record]:
        """Runs the callbacks that are due, and saves a checkpoint if one is."""
        records = []
        for callback in self.callbacks:
            if callback.due(self.step):
                begin = self.clock()
                records += [book.log(name, self._stamped(name, record)) for name, record in callback.run(self.step)]
                callback.seconds = self.clock() - begin
        if (save or self.step in self.saves) and not self._is_saved():
            begin = self.clock()
            records.append(self._saved(book))
            self._saving = self.clock() - begin
        return records

    def _end(self, book: Journal) -> list[Record]:
        """Logs why training ended; saves a checkpoint if it was stopped."""
        if self.step >= self.steps:
            kind, message = "finished", f"finished {self.steps} steps in {self.pace.time / 60:.1f} minutes"
            return [book.event(self.step, self.pace.time, kind, message)]
        records = [] if self._is_saved() else [self._saved(book)]
        message = f"stopped at step {self.step} of {self.steps}; the rest: cloche resume {self.run.path}"
        return [*records, book.event(self.step, self.pace.time, "stopped", message)]

    def _where(self) -> str:
        return f"{torch.get_num_threads()} threads" if self.setup.device == "cpu" else torch.cuda.get_device_name()

    def _so_far(self) -> Record:
        record: Record = {"step": self.step, "time": round(self.pace.time, 3)}
        if self.setup.tokens:
            record["tokens"] = self.taken * self.setup.tokens
        if self.setup.flops:
            record["flops"] = self.taken * self.setup.flops
        return record

    def _stamped(self, name: str, record: Record) -> Record:
        return {**(self._so_far() if name == "metrics" else {"step": self.step}), **record}

    def _metrics(self, update: Update, peak: float) -> Record:
        seconds = self.pace.take()
        record: Record = {
            **self._so_far(),
            "loss": self.steps_log.loss,
            **update.others,
            "lr": next(iter(update.rates.values())),
        }
        record |= {f"lr_{name}": rate for name, rate in update.rates.items()} | self.optimizer.shrink()
        record["grad_norm"] = update.grad_norm
        record |= self.steps_log.figures() | self.optimizer.figures()
        record |= self.source.figures() if isinstance(self.source, Reports) else {}
        if self.setup.tokens:
            record["tokens_per_second"] = self.setup.tokens / seconds
        if self.setup.flops:
            record["mfu"] = self.setup.flops / seconds / peak
        record["weights"] = weights_hash(self.net)[:DIGITS]
        return {**record, "eta": self.pace.left(self.step, self.steps)}

    # ---- checkpoints

    def save(self, run: Run | None = None) -> Path:
        """Saves a checkpoint of this step, in this run's folder or another's, unless there is one; returns its path."""
        run = run or self.run
        saved = [checkpoint.path for checkpoint in run.checkpoints() if checkpoint.step == self.step]
        return saved[0] if saved else save_checkpoint(run, self.step, self.net, self.optimizer, self._state())

    def _saved(self, book: Journal) -> Record:
        """The event of this step's checkpoint, which is saved unless there is one."""
        return book.saved(self.step, self.pace.time, self.save(), weights_hash(self.net)[:DIGITS])

    def _state(self) -> dict[str, Any]:
        return {
            **self._so_far(),
            "batches": self.taken,
            "plan": self.plan.state(),
            "steps": self.steps_log.state(),
            "source": self.source.state(),
            "optimizer": self.optimizer.name,
            "guard": self.guard.state(),
            "warning": self.warning.state(),
            "callbacks": {callback.name: state for callback in self.callbacks if (state := callback.state())},
        }

    def _is_saved(self) -> bool:
        return any(checkpoint.step == self.step for checkpoint in self.run.checkpoints())

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restores a checkpoint, so that training continues as if it had never stopped. Call `drop_later` next: the
        logs still hold records of later steps."""
        state = restore_checkpoint(checkpoint, self.net, self.optimizer, self._restore_callbacks)
        self.resumed = checkpoint_name(state["step"])
        self.step = state["step"]
        self.steps_log.restore(state.get("steps") or of_older(state), self.step)
        self.taken = state.get("batches", self.step)  # absent before batches were accumulated
        self.pace = Pace(self.step, state["time"], self.clock)
        self.plan.restore(state["plan"])
        self.source.restore(state["source"])
        self.guard.restore(state["guard"])
        if "warning" in state:  # absent before there was one
            self.warning.restore(state["warning"])

    def _restore_callbacks(self, state: dict[str, Any]) -> None:
        for callback in self.callbacks:
            if callback.name in state["callbacks"]:
                callback.restore(state["callbacks"][callback.name])

    def drop_later(self) -> None:
        """Drops log records of later steps, after reading their re-plans."""
        reached = max((int(record.get("step") or 0) for record in self.run.read_log("metrics")), default=0)
        self.plan.read_replans(self.step, self.run.read_log("events"), reached)
        self.run.truncate_logs(self.step)
        self.run.truncate_logs(self.step - len(self.steps_log.steps), "steps")  # a record at its end has these too
