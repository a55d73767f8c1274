"""A run's metrics as columns: kept as the log grows, and thinned to what a chart can show without losing a spike.

A record a line is right for writing; a browser plots columns. Of a long log each stretch keeps its ends and, of every
measure that a chart draws, its lowest and its highest record; the mean of each stretch goes along for smoothing. A window
is thinned on its own, so zooming in ends at the records themselves.
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
MOST_POINTS = 4000  # up to so many records nothing is left out
MOST_RECORDS = 2_000_000
PLAIN = {float, int}
Column = Sequence[float]
Record = dict[str, Any]


class Columns:
    """One array of numbers for each key, equally long; a missing or non-finite value is NaN."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.columns = {key: array("d") for key in keys}

    def __len__(self) -> int:
        return len(self.columns["step"])

    def take(self, records: Sequence[Record]) -> None:
        """Adds records that have a step; the rest is not something a chart could place."""
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
        """Records `start` to `end` as JSON columns: all of them, or at most a few thousand. `index` is each record's place
        among all, and `means` has the mean of each noisy measure over the records since the one before."""
        end = len(self) if end is None else end
        kept = range(start, end) if end - start <= MOST_POINTS else self._telling(start, end)
        whole = len(kept) == end - start
        shown = {key: [_shown(key, column[i], whole) for i in kept] for key, column in self.columns.items()}
        shown["index"] = list(kept)
        noisy = [] if whole else [key for key in NOISY if key in self.columns]
        means = {key: _means(self.columns[key], start, kept) for key in noisy}
        return {"columns": shown, "means": means, "total": len(self)}

    def _telling(self, start: int, end: int) -> list[int]:
        """Of each stretch: its ends, and the lowest and highest record of each measure that is drawn."""
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
    """The values as an array, NaN for what is not a finite number; by one call where all are numbers, as they should be."""
    if PLAIN.issuperset(map(type, values)):
        try:
            numbers = array("d", values)
            if not (math.inf in numbers or -math.inf in numbers):
                return numbers
        except OverflowError:
            pass
    return array("d", [math.nan if (n := number(value)) is None else float(n) for value in values])


def _extremes(values: Column) -> tuple[int, ...]:
    """The places of the lowest and the highest value; of none where all are NaN."""
    low = min(values)
    if math.isnan(low):  # only when the first is: a comparison with NaN keeps what was there
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
    """As JSON carries it: seven digits where records were left out, for no chart shows more."""
    if not math.isfinite(value):
        return None
    if key in WHOLE and value.is_integer():
        return int(value)
    return value if whole else float(f"{value:.7g}")
