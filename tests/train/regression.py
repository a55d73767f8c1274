"""A training that is no language model's: a line fitted by the same loop, on a clock of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from cloche.runs import Run
from cloche.train import WSD, AdamW, Loop, Setup, Stepper, StepPlan, Term

ADAMW = AdamW(lr=0.1)
SLOPE = torch.tensor([[3.0, -2.0, 0.5]])


class Clock:
    """Seconds that pass only when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Points:
    """Rows of a noisy linear function, a pure function of the step; each batch takes `seconds(step)` of the clock."""

    def __init__(self, clock: Clock, seconds=lambda step: 1.0, planted: dict[int, float] | None = None) -> None:
        self.clock, self.seconds, self.planted, self.step = clock, seconds, planted or {}, 0

    def next(self):
        generator = torch.Generator().manual_seed(self.step)
        x = torch.randn(16, 3, generator=generator)
        y = x @ SLOPE.T + 0.1 * torch.randn(16, 1, generator=generator) + self.planted.get(self.step, 0.0)
        self.clock.now += self.seconds(self.step)
        self.step += 1
        return x, y

    def state(self):
        return {"step": self.step}

    def restore(self, state) -> None:
        self.step = state["step"]


@dataclass(frozen=True)
class SquaredError:
    def terms(self, net, batch):
        x, y = batch
        return {"loss": Term((net(x) - y).square().mean()), "size": Term(net.weight.square().mean(), 1e-4)}


def regression(run: Run, steps: int, minutes: float | None = None, callbacks=(), optimizer=ADAMW, **points) -> Loop:
    """A loop over `steps` of a second each by its own clock."""
    torch.manual_seed(0)
    net, clock = nn.Linear(3, 1), Clock()
    plan = StepPlan(steps, WSD(), 60 * minutes if minutes else None)
    setup = Setup(log_every=10, checkpoints=5)
    loop = Loop(run, net, Points(clock, **points), SquaredError(), Stepper(net, optimizer), plan, callbacks, setup)
    loop.clock = clock
    return loop
