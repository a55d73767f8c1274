"""Pretraining: builds a training loop over packed tokens from a recipe and a run folder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cloche.data import PackedTokens
from cloche.errors import RunExists, SettingInvalid
from cloche.model import Network
from cloche.runs import Run
from cloche.text import Tokenizer
from cloche.train.corpus import prepare_data
from cloche.train.evaluation import Score, evaluate, sample
from cloche.train.intact import data_hashes, require_intact, require_untrained
from cloche.train.loop import PRECISIONS, Loop, Setup
from cloche.train.machine.calibrate import calibrate, trial_recipe
from cloche.train.machine.heap import keep_freed_memory
from cloche.train.monitors.health import Health
from cloche.train.monitors.journal import Record
from cloche.train.monitors.noise import BatchNoise
from cloche.train.monitors.pretraining import HealthCallback, LogCallback
from cloche.train.objectives.batch import TokenBatch
from cloche.train.objectives.objective import Objective, total_loss
from cloche.train.optimizers.stepper import Stepper
from cloche.train.parents import put_in_place
from cloche.train.plan import Every, Milestones, StepPlan
from cloche.train.recipe.limits import check_fits
from cloche.train.recipe.recipe import Recipe
from cloche.train.recipe.resolve import amend, resolve, usable_device
from cloche.train.source import TokenSource, batches_of, described
from cloche.train.trial import try_objective

RECENT = 16  # updates whose mean loss the gap of a validation is measured from


class Trainer(Loop):
    """Pretraining: a `Loop` built from a resolved recipe. Construct it with `start` or `resume`, then iterate.

    Raises ClocheError if the recipe cannot be trained on this machine.

    >>> from pathlib import Path
    >>> from cloche.runs import Run
    >>> from cloche.train import Recipe, Trainer
    >>> _ = Path("text.txt").write_text("The cat sat on the mat. " * 400)
    >>> recipe = Recipe().with_set({"data.paths": ["text.txt"], "tokenizer.vocab": 270, "run.steps": 4, "run.length": 16})
    >>> recipe = recipe.with_set({"run.threads": 1, "run.precision": "fp32", "evaluate.samples": 0, "evaluate.tokens": 64})
    >>> recipe = recipe.with_set({"model.width": 24, "model.body.depth": 1, "run.batch": 2, "checkpoint.count": 1})
    >>> for record in Trainer.start(recipe, Run.create("run", recipe.to_toml())):
    ...     if record["log"] == "events":
    ...         print(record["kind"], record["step"])
    start 0
    checkpoint 0
    checkpoint 4
    finished 4
    """

    net: Network
    objective: Objective

    def __init__(self, recipe: Recipe, run: Run) -> None:
        r, e = recipe.run, recipe.evaluate
        if r.steps is None or r.threads is None:
            raise SettingInvalid(
                "[run] steps and threads are not decided yet; make a trainer by Trainer.start, which does."
            )
        check_fits(recipe)
        torch.set_num_threads(r.threads)
        torch.manual_seed(r.seed)
        keep_freed_memory()
        self.recipe, self.tokenizer = recipe, Tokenizer.load(run.path)
        self.batches = batches_of(recipe, PackedTokens.open(run.path / "data", "train"))
        self.validation = PackedTokens.open(run.path / "data", "validation")
        device = usable_device(r.device)
        net = recipe.model.build(r.seed, recipe.initialisation).to(device)
        net.context = r.length
        objective = recipe.objective.bound(self.tokenizer)
        objective.check(net)
        source = TokenSource(self.batches, device, data_hashes(run), r.seed, recipe.rows.document_masks)
        if recipe.rows.document_masks:
            objective.weight(source.at(0))  # refuses now, not at the first step, if it has no use for documents
        tokens = r.length * r.batch
        setup = Setup(
            recipe.log.every,
            recipe.checkpoint.count,
            str(r.precision),
            device,
            tokens,
            net.flops_per_token(r.length) * tokens,
        )
        plan = StepPlan(r.steps, recipe.schedule, 60 * r.minutes if r.minutes else None)
        optimizer = Stepper(net, recipe.optimizer, PRECISIONS[setup.precision], recipe.rates(net))
        self._health = HealthCallback(
            Every(plan, recipe.log.health_every),
            Health(net, optimizer=optimizer),
            recipe.optimizer,
            BatchNoise(net, self._loss),
            lambda step: plan.batches(max(step - 1, 0)),
        )
        super().__init__(
            run,
            net,
            source,
            objective,
            optimizer,
            plan,
            [
                self._health,
                LogCallback(Milestones(plan, e.validations), "metrics", lambda: [self.validate()]),
                LogCallback(Milestones(plan, e.samples), "samples", self.sample),
            ],
            setup,
        )
        with self.autocast():
            try_objective(objective, net, source.at(0))
        self.changed = described(self.batches, recipe, run)
        self.settings = recipe.to_toml()
        self.remedy = f"lower the rate: cloche resume {run.path} --set optimizer.lr={recipe.optimizer.lr / 3:.2g}"

    @classmethod
    def start(cls, recipe: Recipe, run: Run) -> Trainer:
        """Starts a new run: prepares its data unless data/ exists, and writes the resolved recipe to recipe.toml. Its weights
        are its parent's, where run.json names one."""
        if run.checkpoints():
            raise RunExists(f"{run.path} has already been trained; continue with `cloche resume {run.path}`")
        with run.training():
            prepare_data(recipe, run)
            recipe = resolve(recipe, run)
            if recipe.run.steps is None:
                steps = calibrate(recipe, cls(trial_recipe(recipe), run))
                recipe = recipe.with_set({"run.steps": steps, "run.minutes": recipe.run.minutes})
            run.write_bytes("recipe.toml", recipe.to_toml().encode())
            trainer = cls(recipe, run)
            if parent := run.info.get("parent"):
                put_in_place(trainer.net, parent)
            return trainer

    @classmethod
    def resume(cls, run: Run, changes: dict[str, Any] | None = None) -> Trainer:
        """Resumes from the last checkpoint exactly as if the run had never stopped, or from the start if there is
        none.

        changes: settings to change, such as {"optimizer.lr": "0.001"} (see `amend`). Raises ClocheError, and changes
        nothing, if a file that it reads does not have the bytes that were written (see `require_intact`) or if
        another process is training the run.
        """
        recipe = Recipe.parse(run.recipe, f"{run.path}/recipe.toml")
        with run.training():
            if not run.checkpoints():
                require_untrained(run)
                run.truncate_logs(-1)
                return cls.start(recipe.with_set(changes or {}), run)
            last = run.checkpoint("last")
            before, recipe = recipe, amend(recipe, changes or {}, last.step, run)
            require_intact(run, last)
            trainer = cls(recipe, run)
            trainer.restore(last)
            trainer.changed += "".join(f"; {change}" for change in recipe.changes_from(before))
            if changes:  # only now that all are accepted
                run.write_bytes("recipe.toml", recipe.to_toml().encode())
            trainer.drop_later()
            return trainer

    def validate(self) -> Record:
        """Loss and bits per byte on held-out text, for metrics.jsonl; also of the average of the weights, if one is kept."""
        score = self._score()
        record = {"val_loss": score.nats_per_token, "val_bpb": score.bits_per_byte, "val_bytes": score.bytes}
        if recent := list(self.guard.losses)[-RECENT:]:
            record["val_gap"] = score.nats_per_token - sum(recent) / len(recent)
        if self.optimizer.average is not None:
            with self.optimizer.averaged():
                score = self._score()
            record |= {"val_loss_average": score.nats_per_token, "val_bpb_average": score.bits_per_byte}
        return record

    def _loss(self, batch: TokenBatch) -> Tensor:
        with self.autocast():
            return total_loss(self.objective.terms(self.net, batch))

    def _score(self) -> Score:
        r, e = self.recipe.run, self.recipe.evaluate
        with self.autocast():
            return evaluate(
                self.net,
                self.validation,
                self.tokenizer.byte_lengths,
                r.length,
                r.batch,
                e.tokens,
                self.objective,
                self.recipe.rows.document_masks,
            )

    def sample(self) -> list[Record]:
        """Continuations of the recipe's prompts, for samples.jsonl; none if the model is not one that continues text."""
        if not self.net.causal:
            return []
        r, e = self.recipe.run, self.recipe.evaluate
        return [sample(self.net, self.tokenizer, prompt, e.sample_tokens, r.seed, e.sampler) for prompt in e.prompts]

    def measure_health(self, batch: TokenBatch) -> None:
        """Measures health and discards the record: `calibrate` times it."""
        self._health.before(batch, 0.0)
        self._health.run(0)
