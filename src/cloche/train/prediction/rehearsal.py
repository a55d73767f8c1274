"""A rehearsal of a recipe: its own network, objective, optimiser and loop take steps on random tokens."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cloche.runs import Run
from cloche.text import SMALLEST_VOCAB, Tokenizer, train_bpe
from cloche.train.loop import PRECISIONS, Loop, Setup
from cloche.train.machine.gemm import best_precision, gemm_rates
from cloche.train.machine.heap import keep_freed_memory
from cloche.train.monitors.callbacks import Callback
from cloche.train.monitors.health import Health
from cloche.train.objectives.objective import Objective
from cloche.train.optimizers.schedule import Constant
from cloche.train.optimizers.stepper import Stepper
from cloche.train.plan import Every, StepPlan
from cloche.train.prediction.live import LiveMemory
from cloche.train.recipe.limits import check_fits
from cloche.train.recipe.recipe import Recipe
from cloche.train.recipe.resolve import usable_device

STEPS = 1000  # of the plan: more than a rehearsal takes
clock = time.perf_counter


class RandomTokens:
    """Batches [row, length + 1] of tokens drawn evenly from the vocabulary."""

    def __init__(self, vocab: int, length: int, rows: int, device: str = "cpu", seed: int = 0) -> None:
        self.vocab, self.length, self.rows, self.device = vocab, length, rows, device
        self.generator = torch.Generator().manual_seed(seed)

    def next(self) -> Tensor:
        ids = torch.randint(self.vocab, (self.rows, self.length + 1), generator=self.generator)
        return ids.to(self.device)

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


class _Updating(Callback):
    """Begins the phase "update" before each."""

    def __init__(self, live: LiveMemory) -> None:
        super().__init__(Every(StepPlan(STEPS, Constant()), 1))
        self.live = live

    def before(self, batch: Any, grad_norm: float) -> None:
        self.live.begin("update")


class ShortPlan(StepPlan):
    """The plan of a rehearsal, in which an update has all its batches from the first, but at most `most`."""

    most = 2**31

    def batches(self, step: int) -> int:
        return min(self.most, super().batches(step))


class Rehearsal:
    """Steps of a recipe without a corpus; `rows` can be set to fewer than [run] batch, and `plan.most` to fewer batches
    than the schedule accumulates. Nothing is written.

    Raises ClocheError if the recipe cannot be trained on this machine.

    >>> from cloche.train import Recipe
    >>> from cloche.train.prediction.rehearsal import Rehearsal
    >>> changes = {"model.width": 24, "model.body.depth": 1, "tokenizer.vocab": 270, "run.length": 16, "run.batch": 2}
    >>> rehearsal = Rehearsal(Recipe().with_set({**changes, "run.threads": 1, "run.precision": "fp32"}))
    >>> rehearsal.step() > 0
    True
    """

    def __init__(self, recipe: Recipe) -> None:
        check_fits(recipe)
        r, device = recipe.run, usable_device(recipe.run.device)
        torch.set_num_threads(r.threads or torch.get_num_threads())
        keep_freed_memory()
        precision = best_precision(gemm_rates(device)) if r.precision == "auto" else r.precision
        self.recipe, self.device, self.precision = recipe, device, precision
        self.net = recipe.model.build(r.seed, recipe.initialisation).to(device)
        self.net.context = r.length
        self.objective, vocab = _known(recipe)
        self.objective.check(self.net)
        self.source = RandomTokens(vocab, r.length, r.batch, device, r.seed)
        self.optimizer = Stepper(self.net, recipe.optimizer, PRECISIONS[precision], recipe.rates(self.net))
        self.health = Health(self.net)
        self.plan = ShortPlan(STEPS, replace(recipe.schedule, ramp=0.0))
        self.loop = Loop(
            _NOWHERE,
            self.net,
            self.source,
            self.objective,
            self.optimizer,
            self.plan,
            setup=Setup(precision=precision, device=device),
        )

    def step(self) -> float:
        """One update; returns its seconds."""
        self.wait()
        start = clock()
        self.loop.update()
        self.wait()
        return clock() - start

    def measure_health(self) -> None:
        """What the loop does every [log] health_every steps, without its update."""
        self.health.before()
        self.health.record(0, self.source.next()[:, :-1], 0.0)

    @torch.no_grad()
    def validate(self) -> None:
        """The loss of one batch, as in a validation."""
        with self.loop.autocast():
            self.objective.nats(self.net, self.source.next())

    def memory(self) -> dict[str, dict[str, int]]:
        """The most bytes of tensors alive in one step, by phase and then by purpose (see `LiveMemory`).

        Phases: "step" (forward and backward pass), "update", "health", "validation".
        """
        self.step()  # the optimiser's state is made by the first
        hooks = []
        with LiveMemory() as live:
            live.claim(self.net.parameters(), "weights")
            live.claim(self.optimizer.state().values(), "optimizer")
            for p in self.net.parameters():
                live.claim([p.grad] if p.grad is not None else [], "gradients")
                hooks.append(p.register_post_accumulate_grad_hook(lambda p: live.claim([p.grad], "gradients")))
            self.loop.callbacks = [_Updating(live)]
            try:
                live.begin("step")
                with live.saving():
                    self.loop.update()
                live.begin("health")
                self.measure_health()
                live.begin("validation")
                self.validate()
            finally:
                self.loop.callbacks = []
                for hook in hooks:
                    hook.remove()
        return live.most

    def wait(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()


_NOWHERE: Run = None  # type: ignore[assignment]  # a loop that is not iterated over writes nothing


def _known(recipe: Recipe) -> tuple[Objective, int]:
    """The recipe's objective, with a tokenizer that has its special tokens if it needs one, and the number of ids to draw
    from."""
    special = recipe.objective.special_tokens
    if not special:
        return recipe.objective, recipe.model.vocab
    path = recipe.tokenizer.path
    tokenizer = Tokenizer.load(path) if path else train_bpe(["ab"], SMALLEST_VOCAB + len(special), special)
    return recipe.objective.bound(tokenizer), min(tokenizer.vocab, recipe.model.vocab)
