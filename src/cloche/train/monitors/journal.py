"""The logs of a run, and the messages of its events."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from cloche.errors import ClocheError
from cloche.runs import LOGS, Run
from cloche.train.monitors.warning import Alarm

Record = dict[str, Any]


class Journal:
    """Writes a run's logs. Each record is in the file before it is returned as {"log": name, **record}."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._noticed: list[str] = []
        self._now: tuple[int, float] = (0, 0.0)

    def __enter__(self) -> Journal:
        self.writers = {name: self.run.log(name, self._noticed.append) for name in LOGS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._finish()
        except ClocheError:
            if error is None:
                raise

    def _finish(self) -> None:
        """Closes all logs and records their state in manifest.json. Warns of what happened to the files since the last
        record."""
        with ExitStack() as closing:
            for writer in self.writers.values():
                closing.callback(writer.close)
            for writer in self.writers.values():
                writer.check()
            for record in self.notices():
                warnings.warn(record["message"], stacklevel=4)
        self.run.anchor_logs()

    def log(self, name: str, record: Record) -> Record:
        if name not in self.writers:  # a callback's own
            self.writers[name] = self.run.log(name, self._noticed.append)
        self.writers[name].append(record)
        return {"log": name, **record}

    def event(self, step: int, time: float, kind: str, message: str, **more: Any) -> Record:
        self._now = step, time
        return self.log("events", {"step": step, "time": round(time, 3), "kind": kind, "message": message, **more})

    def notices(self) -> list[Record]:
        """Events for what happened to the log files since the last call, such as a deletion."""
        noticed, self._noticed[:] = list(self._noticed), []
        return [self.event(*self._now, "log", message) for message in noticed]

    def warned(self, time: float, alarm: Alarm, parts: Sequence[str]) -> Record:
        """The event of an early warning."""
        what = {"quantity": alarm.quantity, "value": alarm.value, "usual": alarm.usual}
        place = None if alarm.place is None else parts[alarm.place]
        return self.event(alarm.step, time, "warning", alarm.message(parts), **what, place=place)

    def saved(self, step: int, time: float, path: Path, weights: str) -> Record:
        """The event of a checkpoint. By its name `verify` notices a missing checkpoint, and by the hash of its weights whether
        it rightly has those of another."""
        return self.event(step, time, "checkpoint", f"saved {path.name}", checkpoint=path.name, weights=weights)


def is_finished(run: Run, step: int) -> bool:
    """Whether the event log says that training finished at this step.

    >>> from cloche.runs import Run
    >>> from cloche.train import is_finished
    >>> run = Run.create("run", "")
    >>> with run.log("events") as log:
    ...     log.append({"step": 8, "time": 1.0, "kind": "finished", "message": "finished 8 steps"})
    >>> is_finished(run, 8), is_finished(run, 4)
    (True, False)
    """
    return has_event(run, "finished", step)


def has_event(run: Run, kind: str, step: int) -> bool:
    """Whether the event log has one of this kind at this step."""
    return any(record.get("kind") == kind and record.get("step") == step for record in run.read_log("events"))


def session_message(precision: str, where: str, rates: dict[str, float]) -> str:
    """Precision and device of a session, and the rate that MFU refers to, if measured."""
    said = f"training in {precision} on {where}"
    if not rates:
        return said
    best = max(rates, key=rates.__getitem__)
    speeds = ", ".join(f"{name} {value / 1e9:.0f} GFLOP/s" for name, value in rates.items())
    return f"{said}; matrix products run at up to {speeds} here, and MFU is the share of {best}'s"


def spike_message(step: int, loss: float, limit: float) -> str:
    return f"step {step}: the loss jumped to {loss:.3f} (limit {limit:.3f}); its update was not applied"


def nonfinite_message(step: int, loss: float, grad_norm: float, run: Run, remedy: str) -> str:
    """The error that ends a run: what, where, and how to resume."""
    saved = run.checkpoints()
    last = f"the last good checkpoint is {saved[-1].path.name}" if saved else "there is no checkpoint yet"
    return (
        f"step {step}: the loss is {loss} and the gradient norm {grad_norm}; the update was not applied and "
        f"training stopped; {last}; to resume from there, {remedy}"
    )


def replan_message(before: int, steps: int, seconds: float | None) -> str:
    faster = steps > before
    return (
        f"the machine got {'faster' if faster else 'slower'}: {steps} steps are planned instead of {before}"
        + (f", to end near the {seconds / 60:g} minutes" if seconds else "")
        + f"; the learning rate goes through the rest of its schedule {'slower' if faster else 'faster'}"
    )
