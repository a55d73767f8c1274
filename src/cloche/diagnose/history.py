"""What the logs of a run say of each of its steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cloche.runs import Run
from cloche.train import read_records

PER_STEP = {"grad_norms": "gradient norm", "update_norms": "update norm"}  # of steps.jsonl, one value per part
HEALTH = {  # of health.jsonl, one value per layer; those that rise where something goes wrong
    "update_ratio": "update ratio",
    "weight_norm": "weight norm",
    "kurtosis": "kurtosis of the stream",
    "resid_variance": "variance of the stream",
    "gain": "gain",
}
WITH_EMBEDDING = ("update_ratio", "weight_norm", "kurtosis", "resid_variance")  # whose first value is the embedding's


@dataclass(frozen=True)
class History:
    """The steps of a run, in order; step t is at place t - 1, and what the log does not have of it is NaN.

    losses: [step]. series: by quantity and place ("gradient norm", "layer 2"), each [step]. every: steps that one record of
    the losses is the mean of. health: by quantity of health.jsonl, (steps, values [record, layer]), without the
    embedding's. events: of events.jsonl.
    """

    losses: np.ndarray
    series: dict[tuple[str, str], np.ndarray]
    every: int
    health: dict[str, tuple[np.ndarray, np.ndarray]]
    metrics: list[dict[str, Any]]
    events: list[dict[str, Any]]

    @property
    def steps(self) -> int:
        return len(self.losses)

    @property
    def nonfinite(self) -> int | None:
        """The step at which a loss or gradient that is not finite ended the run."""
        return next((int(e["step"]) for e in reversed(self.events) if e.get("kind") == "nonfinite"), None)

    @property
    def ended(self) -> bool:
        """Whether training is over: all steps taken, or ended by a loss that is not finite."""
        return any(event.get("kind") in ("finished", "nonfinite") for event in self.events)

    @property
    def skipped(self) -> list[int]:
        """Steps whose update was left out because the loss spiked."""
        return [int(event["step"]) for event in self.events if event.get("kind") == "spike"]

    def metric(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(steps, values) of a key of metrics.jsonl."""
        found = [(int(r["step"]), float(r[name])) for r in self.metrics if isinstance(r.get(name), int | float)]
        steps, values = zip(*found, strict=True) if found else ((), ())
        return np.array(steps, dtype=int), np.array(values, dtype=float)


def read_history(run: Run) -> History:
    """Reads the logs: log/steps.jsonl for each step, and for what a run without it lacks, the coarser metrics.jsonl."""
    metrics, events = read_records(run, "metrics"), read_records(run, "events")
    records = read_records(run, "steps")
    losses, series, every = _exact(records) if records else _coarse(metrics)
    return History(losses, series, every, _health(read_records(run, "health")), metrics, events)


def _exact(records: list[dict[str, Any]]) -> tuple[np.ndarray, dict[tuple[str, str], np.ndarray], int]:
    last, parts = records[-1]["step"], list[str]()
    whole = {("loss", ""): "loss", ("gradient norm", ""): "grad_norm", ("update norm", ""): "update_norm"}
    series = {key: np.full(last, np.nan) for key in whole}
    for record in records:
        parts = record.get("parts", parts)  # of each record that names none, those of the last that does
        here = slice(record["step"] - len(record["loss"]), record["step"])
        for key, name in whole.items():
            series[key][here] = _numbers(record.get(name, [None]))
        series["loss", ""][here] = [np.inf if value is None else value for value in record["loss"]]
        for name, quantity in PER_STEP.items():
            for i, part in enumerate(parts if name in record else ()):
                values = series.setdefault((quantity, part), np.full(last, np.nan))
                values[here] = [_number(row[i]) if row and i < len(row) else np.nan for row in record[name]]
    return series["loss", ""], series, 1


def _coarse(metrics: list[dict[str, Any]]) -> tuple[np.ndarray, dict[tuple[str, str], np.ndarray], int]:
    """From records that are means over the steps since the one before."""
    found = [record for record in metrics if "loss" in record]
    last = max((int(record["step"]) for record in found), default=0)
    names = {"loss": ("loss", ""), "grad_norm": ("gradient norm", ""), "update_norm": ("update norm", "")}
    series = {key: np.full(last, np.nan) for key in names.values()}
    before, spans = 0, [1]
    for record in found:
        step = int(record["step"])
        for name, key in names.items():
            if isinstance(record.get(name), int | float):
                series[key][before:step] = record[name]
        if record["loss"] is None:
            series["loss", ""][before:step] = np.inf
        spans.append(step - before)
        before = step
    return series["loss", ""], series, int(np.median(spans[1:] or [1]))


def _health(records: list[dict[str, Any]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    found = {}
    for name in HEALTH:
        having = [(int(record["step"]), _per_layer(record[name])) for record in records if record.get(name)]
        width = max((len(values) for _, values in having), default=0)
        having = [(step, values) for step, values in having if len(values) == width]
        if having:
            steps, values = zip(*having, strict=True)
            table = np.array(values)
            found[name] = np.array(steps), table[:, 1:] if name in WITH_EMBEDDING else table
    return found


def _per_layer(values: list[Any]) -> list[float]:
    """One number per layer; of heads, their mean."""
    return [float(np.mean(_numbers(v))) if isinstance(v, list) and v else _number(v) for v in values]


def _numbers(values: list[Any]) -> list[float]:
    return [_number(value) for value in values]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else np.nan


def named_series(history: History) -> Iterator[tuple[str, str, np.ndarray]]:
    """(quantity, place, values) of every series but the loss."""
    for (quantity, place), values in history.series.items():
        if quantity != "loss":
            yield quantity, place, values


def filled(losses: np.ndarray) -> np.ndarray:
    """With the loss before it in the place of each that the log does not have, and before the first the first; none if it has
    none.

    >>> import numpy as np
    >>> from cloche.diagnose.history import filled
    >>> filled(np.array([np.nan, 3.0, np.nan, 2.0])).tolist()
    [3.0, 3.0, 3.0, 2.0]
    """
    known = np.flatnonzero(~np.isnan(losses))
    if not len(known):
        return losses[:0]
    places = np.searchsorted(known, np.arange(len(losses)), side="right") - 1
    return losses[known[np.maximum(places, 0)]]
