"""Our own early warning, replayed over the per-step log of a run: its constants can be graded without training again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import bench.diagnose.planted  # noqa: F401  recipes of planted faults name its parts
from bench.diagnose.traces import Trace
from bench.diagnose.tuning import Range
from cloche.train import EarlyWarning


class Seen(NamedTuple):
    """A step as the detector is given it."""

    loss: float
    grad_norm: float
    update_norm: float
    grad_norms: list[float]
    update_norms: list[float]


def seen(trace: Trace) -> Iterator[Seen]:
    """The steps that a detector sees in training: up to the first that is not finite, which ends a run."""
    columns = (trace.loss, trace.grad_norm, trace.update_norm, trace.grad_norms, trace.update_norms)
    for row in zip(*(column.tolist() for column in columns), strict=True):
        if not (math.isfinite(row[0]) and math.isfinite(row[1])):
            return
        yield Seen(*row)


@dataclass(frozen=True)
class Replay:
    """The detector with constants of its own, or with those of the optimiser of each run. make(constants): a fresh detector."""

    constants: Any = None
    make: Callable[[Any], Any] = field(default=EarlyWarning, repr=False)
    name: ClassVar[str] = "cloche: EarlyWarning"
    source: ClassVar[str] = "this package"
    space: ClassVar[Mapping[str, Range]] = {}

    def alarms(self, trace: Trace) -> Iterator[int]:
        """The steps of its alarms, as it would have raised them in training."""
        detector = self.make(trace.optimizer.tolerance if self.constants is None else self.constants)
        return (step for step, each in enumerate(seen(trace), 1) if detector.add(step, each) is not None)

    def first(self, trace: Trace) -> int | None:
        return next(self.alarms(trace), None)


def disagreements(traces: list[Trace]) -> dict[str, tuple[list[int], list[int]]]:
    """The runs whose own warnings are not those of the replay: (their own, replayed), by name. The log rounds to five digits,
    so a value that lies on a threshold may fall on its other side."""
    found = {}
    for trace in traces:
        again = list(Replay().alarms(trace))
        if again != list(trace.warned):
            found[trace.name] = (list(trace.warned), again)
    return found
