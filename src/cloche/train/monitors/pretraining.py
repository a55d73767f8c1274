"""The callbacks of pretraining: bits per byte of held-out text, samples, and health."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from cloche.train.monitors.callbacks import Callback, Logged, When
from cloche.train.monitors.health import Health
from cloche.train.monitors.journal import Record
from cloche.train.monitors.records import HealthRecord


class LogCallback(Callback):
    """Logs the records that a function returns: validation and samples, which have no state."""

    def __init__(self, when: When, log: str, records: Callable[[], Sequence[Record]]) -> None:
        super().__init__(when)
        self.log, self.records = log, records

    def run(self, step: int) -> Sequence[Logged]:
        return [(self.log, record) for record in self.records()]


class HealthCallback(Callback):
    """`Health` as a callback: copies the weights before an update and measures the network after it.

    usual: update ratio above which this optimiser moves faster than usual; kept in each record.
    """

    name = "health"

    def __init__(self, when: When, health: Health, usual: float) -> None:
        super().__init__(when)
        self.health, self.usual = health, usual
        self._seen: tuple[Tensor, float] | None = None

    def before(self, batch: Any, grad_norm: float) -> None:
        self.health.before()
        self._seen = batch[:, :-1], grad_norm

    def run(self, step: int) -> Sequence[Logged]:
        if self._seen is None:  # the step was a spike
            return []
        (ids, grad_norm), self._seen = self._seen, None
        record: HealthRecord = {**self.health.record(step, ids, grad_norm), "usual_update_ratio": self.usual}
        return [("health", dict(record))]

    def state(self) -> dict[str, Any]:
        return self.health.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.health.restore(state)
