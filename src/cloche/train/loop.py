"""The loop: batches in, records out, and every few steps a look at what is growing."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cloche.data import Batches, PackedTokens
from cloche.errors import NotFinite, RunExists
from cloche.runs import Run
from cloche.runs.checkpoints import checkpoint_name
from cloche.text import Tokenizer
from cloche.train.checkpoint import restore_checkpoint, save_checkpoint
from cloche.train.corpus import prepare_data
from cloche.train.evaluate import evaluate, sample
from cloche.train.intact import data_hashes, require_intact, require_untrained
from cloche.train.limits import check_fits
from cloche.train.machine.gemm import gemm_rates
from cloche.train.machine.heap import keep_freed_memory
from cloche.train.monitors import journal
from cloche.train.monitors.health import Health
from cloche.train.monitors.journal import Journal, Record
from cloche.train.monitors.pace import Pace
from cloche.train.monitors.spikes import SpikeGuard
from cloche.train.objectives.next_token import NextToken
from cloche.train.optimizers.optimizer import Optimizer
from cloche.train.optimizers.schedule import milestones, rate
from cloche.train.recipe import Recipe
from cloche.train.resolve import amend, resolve, usable_device

LATE = 1.15  # a run ends at this many times its minutes: machines can slow down after they were measured


class Update(NamedTuple):
    """What one step came to. `applied` is False where the loss spiked or something was not finite."""

    loss: float
    grad_norm: float
    lr: float
    applied: bool
    limit: float = math.inf  # the loss above which the step is a spike
    health: Record | None = None
    balance: float | None = None  # of a mixture's routers, before its weight

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class Trainer:
    """One run in training. Iterate over it: each record is yielded once it is logged, {"log": "metrics", **record}.

    Ctrl-C lets the step in hand finish, saves a checkpoint and ends the iteration; so does leaving the loop early. A loss or
    gradient that is not finite ends it with a ClocheError, nothing of that step applied.
    """

    def __init__(self, recipe: Recipe, run: Run) -> None:
        """For a resolved recipe; `start` and `resume` are the doors."""
        r = recipe.run
        assert r.steps is not None and r.threads is not None, "resolve the recipe first"
        check_fits(recipe)
        torch.set_num_threads(r.threads)
        torch.manual_seed(r.seed)
        keep_freed_memory()
        self.recipe, self.run, self.steps = recipe, run, r.steps
        self.tokenizer = Tokenizer.load(run.path)
        self.batches = Batches(PackedTokens.open(run.path / "data", "train"), r.length, r.batch, r.seed)
        self.validation = PackedTokens.open(run.path / "data", "validation")
        self.device = usable_device(r.device)
        self.net = recipe.model.build(r.seed).to(self.device)
        self.net.context = r.length
        self.fast = torch.bfloat16 if r.precision == "bf16" else torch.float32
        self.optimizer = Optimizer(self.net, recipe.optimizer, self.fast)
        self.objective = NextToken(recipe.objective.chunk, recipe.objective.balance)
        self.objective.check(self.net)
        self.guard, self.health = SpikeGuard(), Health(self.net)
        self.tokens_per_step = r.length * r.batch
        self.flops_per_step = self.net.flops_per_token(r.length) * self.tokens_per_step
        self.step, self.pace = 0, Pace(0, 0.0)
        self.resumed: str | None = None  # the name of the checkpoint that it goes on from
        self.losses: list[float] = []  # since the last record
        self._stop = False

    @classmethod
    def start(cls, recipe: Recipe, run: Run) -> Trainer:
        """A fresh run: its data is prepared unless data/ holds it, and the resolved recipe written to recipe.toml."""
        if run.checkpoints():
            raise RunExists(f"{run.path} has been trained already; go on with `cloche resume {run.path}`")
        with run.training():
            prepare_data(recipe, run)
            return cls(resolve(recipe, run), run)

    @classmethod
    def resume(cls, run: Run, changes: dict[str, Any] | None = None) -> Trainer:
        """Goes on from the last checkpoint exactly as if the run had never stopped; from the start where there is none.

        `changes` are settings of [optimizer] and [run] to go on with, such as {"optimizer.lr": "0.001"}. Raises ClocheError
        where a file that it goes on from does not have the bytes that were written (see `require_intact`), or where another
        process trains the run; nothing has changed then.
        """
        recipe = Recipe.parse(run.recipe, f"{run.path}/recipe.toml")
        with run.training():
            if not run.checkpoints():
                require_untrained(run)
                run.truncate_logs(-1)
                return cls.start(recipe.with_set(changes or {}), run)
            last = run.checkpoint("last")
            recipe = amend(recipe, changes or {}, last.step, run)
            require_intact(run, last)
            trainer = cls(recipe, run)
            trainer._restore(restore_checkpoint(last, trainer.net, trainer.optimizer))
            if changes:  # only now that nothing refuses them
                run.write_bytes("recipe.toml", recipe.to_toml().encode())
            run.truncate_logs(trainer.step)
            return trainer

    def stop(self) -> None:
        """Asks the loop to save and end after the step in hand; safe from a signal handler or another thread."""
        self._stop = True

    @property
    def interrupted(self) -> bool:
        """Whether it was asked to stop, by `stop`, Ctrl-C or a polite kill."""
        return self._stop

    # ---- the loop

    def __iter__(self) -> Iterator[Record]:
        r, first = self.recipe.run, self.step
        save_at = {0, *milestones(self.steps, r.checkpoints, early=True)}
        validate_at = {0, *milestones(self.steps, r.validations, early=True)}
        sample_at = {0, *milestones(self.steps, r.samples, early=True)} if r.samples else set()
        rates = gemm_rates(self.device)
        self.pace = Pace(first, self.pace.earlier)
        deadline = self.pace.time + LATE * 60 * (r.minutes or math.inf) * (self.steps - first) / self.steps

        with self.run.training(), Journal(self.run) as book, _interrupts_stop(self):
            if self.resumed and not journal.names_checkpoint(self.run, first):  # killed between the two
                yield book.saved(first, self.pace.time, self.run.path / "checkpoints" / self.resumed)
            message = journal.opening(str(r.precision), self._where(), rates)
            yield book.event(first, self.pace.time, "resume" if self.resumed else "start", message)
            try:
                if not self.resumed:
                    yield from self._look(book, True, bool(sample_at), True)
                while self.step < self.steps and not self._stop and self.pace.time < deadline:
                    begin = time.perf_counter()
                    update = self.update(measure=(self.step + 1) % r.health_every == 0)
                    self.pace.add(time.perf_counter() - begin)

                    if not update.finite:
                        message = journal.not_finite(
                            self.step + 1, update.loss, update.grad_norm, self.run, self.recipe
                        )
                        book.event(self.step + 1, self.pace.time, "nonfinite", message)
                        raise NotFinite(message)
                    # All records of a step are on the disk before the first is yielded: the caller may never come back.
                    records = []
                    if not update.applied:
                        message = journal.spiked(self.step, update.loss, update.limit)
                        records.append(book.event(self.step, self.pace.time, "spike", message))
                    if self.step % r.log_every == 0 or self.step == self.steps:
                        records.append(book.log("metrics", self._metrics(update, max(rates.values()))))
                    if update.health:
                        records.append(book.log("health", update.health))
                    due = (self.step in when for when in (validate_at, sample_at, save_at))
                    yield from records + self._look(book, *due) + book.notices()
            except GeneratorExit:
                if not self._is_saved():
                    book.saved(self.step, self.pace.time, self.save())
                book.event(self.step, self.pace.time, "stopped", f"left at step {self.step} of {self.steps}")
                raise
            yield from self._end(book, fresh=self.step not in validate_at)

    def update(self, measure: bool = False) -> Update:
        """One step: a batch, its loss and gradient, and an update unless the loss spiked or something is not finite."""
        o = self.recipe.optimizer
        lr = self.optimizer.set_rate(rate(self.step, self.steps, o.schedule, o.warmup, o.decay, o.final))
        batch = torch.from_numpy(self.batches.next()).to(self.device)
        self.optimizer.zero_grad()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.fast == torch.bfloat16):
            terms = self.objective.terms(self.net, batch)
        self.objective.joined(terms).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), o.clip).item()
        balance = terms["balance"].item() if "balance" in terms else None
        update = Update(terms["nats"].item(), norm, lr, applied=False, limit=self.guard.limit(), balance=balance)
        if not update.finite:
            return update

        self.step += 1
        self.losses.append(update.loss)
        if self.guard.is_spike(update.loss):
            return update
        if measure:
            self.health.before()
        self.optimizer.step()
        health = self.health.record(self.step, batch[:, :-1], norm) if measure else None
        return update._replace(applied=True, health=health)

    # ---- looking

    def _look(self, book: Journal, validate: bool, samples: bool, save: bool) -> list[Record]:
        records = [book.log("metrics", self.validate())] if validate else []
        if samples:
            records += [book.log("samples", record) for record in self.sample()]
        if save:
            records.append(book.saved(self.step, self.pace.time, self.save()))
        return records

    def _end(self, book: Journal, fresh: bool) -> list[Record]:
        """Saves, and says why it is over. `fresh`: nobody has looked at this step yet."""
        if self.step >= self.steps:
            kind, message = "finished", f"finished {self.steps} steps in {self.pace.time / 60:.1f} minutes"
            return [book.event(self.step, self.pace.time, kind, message)]
        if self._stop:
            fresh = False  # who interrupts does not want to wait
            message = f"stopped at step {self.step} of {self.steps}; the rest: cloche resume {self.run.path}"
        else:
            message = journal.late(self.step, self.steps, self.pace.time, self.recipe.run.minutes or 0.0, self.run)
        records = self._look(book, fresh, fresh and self.recipe.run.samples > 0, not self._is_saved())
        return [*records, book.event(self.step, self.pace.time, "stopped", message)]

    def _where(self) -> str:
        return f"{torch.get_num_threads()} threads" if self.device == "cpu" else torch.cuda.get_device_name()

    def _so_far(self) -> Record:
        tokens, flops = self.step * self.tokens_per_step, self.step * self.flops_per_step
        return {"step": self.step, "time": round(self.pace.time, 3), "tokens": tokens, "flops": flops}

    def _metrics(self, update: Update, peak: float) -> Record:
        loss, seconds = sum(self.losses) / len(self.losses), self.pace.take()
        self.losses = []
        return {
            **self._so_far(),
            "loss": loss,
            **({} if update.balance is None else {"balance": update.balance}),
            "lr": update.lr,
            "grad_norm": update.grad_norm,
            "tokens_per_second": self.tokens_per_step / seconds,
            "mfu": self.flops_per_step / seconds / peak,
            "eta": self.pace.left(self.step, self.steps),
        }

    def validate(self) -> Record:
        """Loss and bits per byte on held-out text, as a line of metrics.jsonl."""
        r = self.recipe.run
        with torch.autocast(self.device, torch.bfloat16, enabled=self.fast == torch.bfloat16):
            score = evaluate(
                self.net,
                self.validation,
                self.tokenizer.byte_lengths,
                r.length,
                r.batch,
                r.validation_tokens,
                self.objective,
            )
        return {
            **self._so_far(),
            "val_loss": score.nats_per_token,
            "val_bpb": score.bits_per_byte,
            "val_bytes": score.bytes,
        }

    def sample(self) -> list[Record]:
        """What the network writes after each of the recipe's prompts, as lines of samples.jsonl."""
        r = self.recipe.run
        return [
            {"step": self.step, **sample(self.net, self.tokenizer, prompt, r.sample_tokens, r.seed)}
            for prompt in r.prompts
        ]

    # ---- saving and going on

    def save(self, run: Run | None = None) -> Path:
        """A checkpoint of this step, in the run's folder or another's; returns where it is. Once is enough."""
        run = run or self.run
        saved = [checkpoint.path for checkpoint in run.checkpoints() if checkpoint.step == self.step]
        return saved[0] if saved else save_checkpoint(run, self.step, self.net, self.optimizer, self._state())

    def _state(self) -> dict[str, Any]:
        return {
            **self._so_far(),
            "steps": self.steps,
            "losses": self.losses,
            "batches": self.batches.state(),
            "data": data_hashes(self.run),
            "guard": self.guard.state(),
            "health": self.health.state(),
        }

    def _is_saved(self) -> bool:
        return any(checkpoint.step == self.step for checkpoint in self.run.checkpoints())

    def _restore(self, state: dict[str, Any]) -> None:
        self.resumed = checkpoint_name(state["step"])
        self.step, self.losses = state["step"], state["losses"]
        self.pace = Pace(self.step, state["time"])
        self.batches.restore(state["batches"])
        self.guard.restore(state["guard"])
        self.health.restore(state["health"])


@contextmanager
def _interrupts_stop(trainer: Trainer) -> Iterator[None]:
    """Ctrl-C and a polite kill ask the trainer to stop between two steps; a second one interrupts at once."""

    def ask(*_: object) -> None:
        if trainer._stop:
            raise KeyboardInterrupt
        trainer.stop()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
