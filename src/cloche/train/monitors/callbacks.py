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
