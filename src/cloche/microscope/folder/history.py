"""A run's metrics as columns: extended as the log grows, and thinned for a chart without losing a spike.

Logs are written as a record per line; a browser plots columns. A long log is divided into intervals; of each, the
first and the last record are kept and, for every plotted measure, the lowest and the highest; the means are sent too,
for smoothing. A window is thinned separately, so zooming in reaches the single records.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from cloche.microscope.folder.reading import number

KEYS = ("step", "time", "tokens", "flops", "loss", "lr", "grad_norm", "tokens_per_second", "mfu", "eta")
VALIDATION_KEYS = ("step", "time", "tokens", "flops", "val_loss", "val_bpb", "val_bytes")
AXES = ("step", "time", "tokens", "flops")
DRAWN = ("loss", "grad_norm", "lr", "tokens_per_second", "mfu", "val_bpb")
NOISY = ("loss", "grad_norm", "tokens_per_second", "mfu")
WHOLE = ("step", "tokens", "flops", "val_bytes")
STRETCHES = 360
MOST_POINTS = 4000  # no thinning up to this number of records
MOST_RECORDS = 2_000_000
PLAIN = {float, int}
Column = Sequence[float]
Record = dict[str, Any]


class Columns:
    """An array of numbers per key, all of one length; missing and non-finite values are NaN."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.columns = {key: array("d") for key in keys}

    def __len__(self) -> int:
        return len(self.columns["step"])

    def take(self, records: Sequence[Record]) -> None:
        """Adds the records that have a step; others cannot be placed in a chart."""
        rows = records
        if not PLAIN.issuperset(map(type, _values(rows, "step"))):
            rows = [row for row in records if number(row.get("step")) is not None]
        for key, column in self.columns.items():
            column.extend(_numbers(_values(rows[: MOST_RECORDS - len(column)], key)))

    def within(self, axis: str, low: float, high: float) -> tuple[int, int]:
        """The records between two values of an axis, with one more on either side so that lines reach the edges."""
        column = self.columns[axis]
        return max(0, bisect_left(column, low) - 1), min(len(column), bisect_right(column, high) + 1)

    def last(self, key: str) -> float | None:
        """The newest value of a key."""
        return next((value for value in reversed(self.columns[key]) if math.isfinite(value)), None)

    def thinned(self, start: int = 0, end: int | None = None) -> dict[str, Any]:
        """Records `start` to `end` as JSON columns: all of them, or at most a few thousand. `index` is each record's
        index among all, and `means` has the mean of each noisy measure over the records since the previous kept one."""
        end = len(self) if end is None else end
        kept = range(start, end) if end - start <= MOST_POINTS else self._representative(start, end)
        whole = len(kept) == end - start
        shown = {key: [_shown(key, column[i], whole) for i in kept] for key, column in self.columns.items()}
        shown["index"] = list(kept)
        noisy = [] if whole else [key for key in NOISY if key in self.columns]
        means = {key: _means(self.columns[key], start, kept) for key in noisy}
        return {"columns": shown, "means": means, "total": len(self)}

    def _representative(self, start: int, end: int) -> list[int]:
        """Indices to keep: of each interval its ends, and the lowest and highest record of each plotted measure."""
        kept = set()
        size = math.ceil((end - start) / STRETCHES)
        for low in range(start, end, size):
            high = min(end, low + size)
            kept |= {low, high - 1}
            for key in DRAWN:
                if key in self.columns:
                    kept |= {low + place for place in _extremes(self.columns[key][low:high])}
        return sorted(kept)


def _values(rows: Sequence[Record], key: str) -> list[Any]:
    try:
        return list(map(itemgetter(key), rows))
    except KeyError:
        return [row.get(key) for row in rows]


def _numbers(values: list[Any]) -> array[float]:
    """The values as an array, NaN for anything but a finite number; converted in one call if all are numbers, the
    usual case."""
    if PLAIN.issuperset(map(type, values)):
        try:
            numbers = array("d", values)
            if not (math.inf in numbers or -math.inf in numbers):
                return numbers
        except OverflowError:
            pass
    return array("d", [math.nan if (n := number(value)) is None else float(n) for value in values])


def _extremes(values: Column) -> tuple[int, ...]:
    """Indices of the lowest and the highest value; empty if all are NaN."""
    low = min(values)
    if math.isnan(low):  # only if the first value is NaN: comparing with a NaN keeps the earlier value
        places = [i for i, value in enumerate(values) if value == value]
        return (min(places, key=values.__getitem__), max(places, key=values.__getitem__)) if places else ()
    return values.index(low), values.index(max(values))


def _means(column: Column, start: int, kept: Sequence[int]) -> list[float | None]:
    means, before = [], start
    for i in kept:
        part = column[before : i + 1]
        total, count = sum(part), len(part)
        if math.isnan(total):
            known = [value for value in part if value == value]
            total, count = sum(known), len(known)
        means.append(float(f"{total / count:.7g}") if count else None)
        before = i + 1
    return means


def _shown(key: str, value: float, whole: bool) -> float | int | None:
    """A value for JSON: rounded to seven digits if records were left out, as no chart shows more."""
    if not math.isfinite(value):
        return None
    if key in WHOLE and value.is_integer():
        return int(value)
    return value if whole else float(f"{value:.7g}")
