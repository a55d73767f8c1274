"""The callbacks of pretraining: bits per byte of held-out text, samples, and health."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from cloche.train.monitors.callbacks import Callback, Logged, When
from cloche.train.monitors.health import Health
from cloche.train.monitors.journal import Record
from cloche.train.monitors.noise import BatchNoise
from cloche.train.optimizers.optimizer import Optimizer


class LogCallback(Callback):
    """Logs the records that a function returns: validation and samples, which have no state."""

    def __init__(self, when: When, log: str, records: Callable[[], Sequence[Record]]) -> None:
        super().__init__(when)
        self.log, self.records = log, records

    def run(self, step: int) -> Sequence[Logged]:
        return [(self.log, record) for record in self.records()]


class HealthCallback(Callback):
    """`Health` as a callback: looks at the weights before an update and measures the network after it.

    optimizer: its `limits` are kept in each record, and what is outside of them is named as "alarms".
    noise: measures the gradient noise scale too. batches: of the update that leads to a step.
    """

    name = "health"

    def __init__(
        self,
        when: When,
        health: Health,
        optimizer: Optimizer,
        noise: BatchNoise | None = None,
        batches: Callable[[int], int] = lambda step: 1,
    ) -> None:
        super().__init__(when)
        self.health, self.optimizer, self.noise, self.batches = health, optimizer, noise, batches
        self._seen: tuple[Tensor, float] | None = None

    def before(self, batch: Any, grad_norm: float) -> None:
        self.health.before()
        self._seen = batch[:, :-1], grad_norm
        if self.noise is not None:
            self.noise.before(batch, grad_norm)

    def run(self, step: int) -> Sequence[Logged]:
        if self._seen is None:  # the step was a spike
            return []
        (ids, grad_norm), self._seen = self._seen, None
        record = self.health.record(step, ids, grad_norm)
        limits = self.optimizer.limits()
        record["usual_update_ratio"] = limits["update_ratio"][1]
        record["limits"] = {
            name: [end if math.isfinite(end) else None for end in ends] for name, ends in limits.items()
        }
        record["alarms"] = alarms(dict(record), limits)
        noise = {} if self.noise is None else self.noise.record(self.batches(step))
        return [("health", {**record, **noise})]

    def state(self) -> dict[str, Any]:
        return self.health.state() | ({} if self.noise is None else {"noise": self.noise.state()})

    def restore(self, state: dict[str, Any]) -> None:
        self.health.restore(state)
        if self.noise is not None and "noise" in state:  # absent before it was measured
            self.noise.restore(state["noise"])


def alarms(record: Mapping[str, Any], limits: dict[str, tuple[float, float]]) -> list[str]:
    """The measures of a record outside of their limits, with the place where they have one: "attention_entropy[2]" is layer
    2, heads averaged.

    >>> from cloche.train.monitors.pretraining import alarms
    >>> alarms({"update_ratio": [0.1, 0.001], "attention_entropy": [[0.0, 0.04], [0.5, 0.0]], "logit_norm": 50.0},
    ...        {"update_ratio": (0, 0.01), "attention_entropy": (0.05, 1), "logit_norm": (0, 30)})
    ['update_ratio[0]', 'attention_entropy[0]', 'logit_norm']
    """
    found = []
    for name, (low, high) in limits.items():
        given = record.get(name)
        places = {f"{name}[{i}]": value for i, value in enumerate(given)} if isinstance(given, list) else {name: given}
        for place, value in places.items():
            values = [v for v in (value if isinstance(value, list) else [value]) if v is not None]
            if values and not low <= sum(values) / len(values) <= high:
                found.append(place)
    return found
