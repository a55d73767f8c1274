"""What runs beside the steps of a training: validation, samples, health, and whatever else is to be watched."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, Protocol

from cloche.train.monitors.journal import Record

Logged = tuple[str, Record]  # the name of a log, and a record without its step


class When(Container[int], Protocol):
    """Some of a run's steps: `Every` and `Milestones` of cloche.train."""

    def left(self, step: int) -> int: ...


class Callback:
    """Runs at some steps of a training and returns records for its logs.

    The loop adds the step to each record and, for the log "metrics", the time. It keeps `state()` in every checkpoint under
    `name`, which no two callbacks of a run share.
    """

    name = "callback"
    seconds = 0.0  # that the last `run` took, as the loop measured it

    def __init__(self, when: When) -> None:
        self.when = when

    def due(self, step: int) -> bool:
        """Whether it runs after this step; 0 is before the first."""
        return step in self.when

    def left(self, step: int) -> int:
        """How often it runs after this step: what the time a run still takes is judged by."""
        return self.when.left(step)

    def before(self, batch: Any, grad_norm: float) -> None:
        """Called before the update of a step that it is due at is applied; not where the step is a spike."""

    def run(self, step: int) -> Sequence[Logged]:
        """The records of this step, each with the name of its log."""
        raise TypeError(f"{type(self).__name__} must define run(step)")

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as JSON; {} where nothing."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from what `state` gave."""
