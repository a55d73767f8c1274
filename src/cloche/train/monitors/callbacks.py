"""Callbacks: validation, samples, health, and whatever else runs every so many steps."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, Protocol

from cloche.train.monitors.journal import Record

Logged = tuple[str, Record]  # the name of a log, and a record without its step


class When(Container[int], Protocol):
    """A set of steps: `Every` and `Milestones` of cloche.train."""

    def left(self, step: int) -> int: ...


class Callback:
    """Base of callbacks: runs after some of the steps and returns records for the logs.

    The loop adds the step to each record and, for the log "metrics", the time. It saves `state()` in every checkpoint
    under `name`, which must be unique in a run.

    >>> from cloche.train import WSD, Callback, Every, StepPlan
    >>> class WeightNorm(Callback):
    ...     name = "weight norm"
    ...     def __init__(self, when, net):
    ...         super().__init__(when)
    ...         self.net = net
    ...     def run(self, step):
    ...         return [("weights", {"norm": sum(p.norm().item() ** 2 for p in self.net.parameters()) ** 0.5})]
    >>> import torch
    >>> net = torch.nn.Linear(3, 1, bias=False)
    >>> _ = torch.nn.init.constant_(net.weight, 2.0)
    >>> callback = WeightNorm(Every(StepPlan(10, WSD()), 5), net)
    >>> callback.due(5), callback.due(6)
    (True, False)
    >>> name, record = callback.run(5)[0]
    >>> name, round(record["norm"], 3)
    ('weights', 3.464)
    """

    name = "callback"
    seconds = 0.0  # duration of the last `run`, measured by the loop

    def __init__(self, when: When) -> None:
        self.when = when

    def due(self, step: int) -> bool:
        """Whether it runs after this step; 0 is before the first step."""
        return step in self.when

    def left(self, step: int) -> int:
        """How many more times it runs after this step; used to estimate the remaining time."""
        return self.when.left(step)

    def before(self, batch: Any, grad_norm: float) -> None:
        """Called at a step that is due, before its update is applied; not called if the step is a spike."""

    def run(self, step: int) -> Sequence[Logged]:
        """Returns the records of this step, each with the name of its log."""
        raise TypeError(f"{type(self).__name__} must define run(step)")

    def state(self) -> dict[str, Any]:
        """State for `restore`, as JSON; {} if there is none."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Restores what `state` returned."""
