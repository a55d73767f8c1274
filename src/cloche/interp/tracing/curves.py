"""Families of curves over checkpoints: one for each entry of an array that an instrument measures."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from cloche.drawing import Finding, Form, Heatmap, Panel, Table
from cloche.errors import InstrumentOption, InstrumentUnknown, shown
from cloche.interp.tracing.onsets import SPREADS, Array, Onset, find_onset

MOST_CURVES = 10_000
SHOWN = 48  # curves in a heat map
ROWS = 20  # onsets in the table
LEVEL = 0.05  # at which one of all curves has an onset by chance


class Family(NamedTuple):
    """The curves of one array. values [checkpoint, unit, entry], with the array's own shape of an entry in `shape`. nulls: the
    same where there is nothing to find, with as many units as there are; empty if the instrument does not say."""

    name: str
    labels: list[str]
    shape: tuple[int, ...]
    values: Array
    nulls: Array


class Curves:
    """Collects the arrays that have curves, checkpoint by checkpoint.

    An instrument names them in its finding's data: "curves" {array: [label of each entry, in the array's order]}. NAME_null,
    if there is such an array, is the same where there is nothing to find, once or several times: [..., *entry].
    """

    def __init__(self, instrument: str, figure: str | None) -> None:
        self.instrument, self.figure = instrument, figure
        self.labels: dict[str, list[str]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.values: dict[str, list[Array]] = {}
        self.nulls: dict[str, list[Array]] = {}

    def add(self, found: Sequence[Finding]) -> None:
        """The findings of one checkpoint, one per unit."""
        if not self.values:
            self._begin(found[0])
        for name, labels in named_curves(found[0], self.figure).items():
            if labels and labels != self.labels.get(name):
                raise InstrumentOption(
                    f"The entries of {shown(name)} of {self.instrument} are others at {found[0].checkpoint} than before; "
                    "choose options with which it measures the same at every checkpoint."
                )
        for name in self.values:
            self.values[name].append(np.stack([self._entries(each, name) for each in found]))
            if all(f"{name}_null" in each.arrays for each in found):
                self.nulls[name].append(np.concatenate([self._null(each, name) for each in found]))

    def _begin(self, first: Finding) -> None:
        for name, labels in named_curves(first, self.figure).items():
            shape = np.shape(first.arrays[name])
            count = int(np.prod(shape))
            own = labels or [", ".join(map(str, index)) for index in np.ndindex(*shape)]
            if len(own) != count:
                raise InstrumentUnknown(
                    f"{self.instrument} labels {len(own)} curves of its array {shown(name)}, which has {count} entries."
                )
            self.labels[name], self.shapes[name] = own, shape
            self.values[name], self.nulls[name] = [], []
        if (total := sum(map(len, self.labels.values()))) > MOST_CURVES:
            raise InstrumentOption(
                f"{self.instrument} has {total:,} curves, more than the {MOST_CURVES:,} that can be traced at once; name one "
                f"of its arrays with figure=: {', '.join(self.labels)}."
            )

    def _null(self, found: Finding, name: str) -> Array:
        """[repetition, entry]"""
        values = np.asarray(found.arrays[f"{name}_null"], dtype=np.float64)
        return values.reshape(-1, len(self.labels[name]))

    def _entries(self, found: Finding, name: str) -> Array:
        values = np.asarray(found.arrays.get(name, ()), dtype=np.float64)
        if values.shape != (expected := self.shapes[name]):
            raise InstrumentOption(
                f"The array {shown(name)} of {self.instrument} has shape {values.shape} at {found.checkpoint} and {expected} "
                "before, so its entries have no curves; choose options with which it is the same at every checkpoint."
            )
        return values.reshape(-1)

    def families(self) -> list[Family]:
        stacked = {name: np.stack(values) for name, values in self.values.items()}
        nulls = {name: np.stack(values) if values else np.zeros((0, 0, 0)) for name, values in self.nulls.items()}
        return [Family(name, self.labels[name], self.shapes[name], stacked[name], nulls[name]) for name in stacked]


def named_curves(found: Finding, figure: str | None) -> dict[str, list[str]]:
    """The arrays that have curves, with the labels of their entries: `figure` alone if it names an array (without labels if
    the instrument gives none), else those that the instrument names."""
    declared = found.data.get("curves")
    known = {name: list(labels) for name, labels in declared.items()} if isinstance(declared, dict) else {}
    known = {name: labels for name, labels in known.items() if name in found.arrays}
    if (
        figure is not None
        and figure in found.arrays
        and np.issubdtype(np.asarray(found.arrays[figure]).dtype, np.number)
    ):
        return {figure: known.get(figure, [])}
    return known if figure is None else {}


# ---- the onsets


def find_onsets(families: Sequence[Family], seed: int = 0) -> dict[str, list[Onset | None]]:
    """The onset of every curve; None for one with values that are not finite.

    The spread of a family's null is that of an entry over units, averaged over entries, or with a single unit that of a
    difference of two entries. So that at most one family in twenty has an onset by chance, the two spreads grow with the
    number of curves (Bonferroni).
    """
    finite = {each.name: np.isfinite(each.values.sum((0, 1))) for each in families}
    count = sum(int(known.sum()) for known in finite.values())
    spreads = max(SPREADS, NormalDist().inv_cdf(1 - LEVEL / 2 / max(1, count)))
    found: dict[str, list[Onset | None]] = {}
    for each in families:
        null = _null_of(each.nulls)
        found[each.name] = [
            find_onset(each.values[:, :, i], null, seed, spreads) if finite[each.name][i] else None
            for i in range(len(each.labels))
        ]
    return found


def _null_of(nulls: Array) -> Array:
    """Two values with the standard deviation of a family's null [checkpoint, unit, entry]; none without a null."""
    known = nulls[:, :, np.isfinite(nulls.sum((0, 1)))] if nulls.size else nulls
    if not known.size:
        return np.zeros(0)
    if known.shape[1] == 1:  # a gain is a difference, whose standard error a single unit does not show
        spread = float(known.mean(0).std()) * 2**0.5
    else:
        spread = float(known.var(1, ddof=1).mean() ** 0.5)
    return np.array([-spread, spread])


# ---- what a finding has of them


def data_of(families: Sequence[Family], onsets: dict[str, list[Onset | None]], steps: Sequence[int]) -> dict[str, Any]:
    """For each array the labels of its curves, and the onset of each: step, interval, gain, spread."""

    def step(at: int | None) -> int | None:
        return None if at is None else steps[at]

    def said(one: Onset | None) -> dict[str, Any]:
        if one is None:
            return {"onset": None}
        span = {"onset": step(one.at), "low": step(one.low), "high": step(one.high)}
        return span | {"gain": one.gain, "spread": one.spread}

    return {each.name: {"labels": each.labels, "onsets": [said(one) for one in onsets[each.name]]} for each in families}


def arrays_of(
    families: Sequence[Family], onsets: dict[str, list[Onset | None]], steps: Sequence[int]
) -> dict[str, Array]:
    """NAME: the mean over units [checkpoint, *entry]. NAME_onset: the step of each entry's onset, NaN where there is none."""
    arrays = {}
    for each in families:
        at = [np.nan if one is None or one.at is None else steps[one.at] for one in onsets[each.name]]
        arrays[each.name] = each.values.mean(1).reshape(len(steps), *each.shape)
        arrays[f"{each.name}_onset"] = np.array(at, dtype=np.float64).reshape(each.shape)
    return arrays


def panels_of(families: Sequence[Family], onsets: dict[str, list[Onset | None]], steps: Sequence[int]) -> list[Panel]:
    """The table of onsets, and a heat map of curves by checkpoint for each array."""
    drawn: list[Panel] = [_table(families, onsets, steps)] if families else []
    return drawn + [_map(each, onsets[each.name], steps) for each in families]


def _map(family: Family, onsets: Sequence[Onset | None], steps: Sequence[int]) -> Heatmap:
    """The curves with the largest gains, in the array's order."""
    gains = np.array([abs(one.gain) if one is not None else -1.0 for one in onsets])
    shown_here = np.sort(np.argsort(-gains, kind="stable")[:SHOWN])
    mean = family.values.mean(1)  # [checkpoint, entry]
    some = len(shown_here) < len(family.labels)
    return Heatmap(
        f"{family.name.replace('_', ' ')} of each by step",
        tuple(family.labels[i] for i in shown_here),
        tuple(f"{step:,}" for step in steps),
        tuple(tuple(mean[:, i].tolist()) for i in shown_here),
        note=f"The {SHOWN} of {len(family.labels):,} that change most." if some else "",
    )


def _table(families: Sequence[Family], onsets: dict[str, list[Onset | None]], steps: Sequence[int]) -> Table:
    rows: list[tuple[str | float | None, ...]] = []
    having = _having(families, onsets)
    for each, i, one in having[:ROWS]:
        at = [None if index is None else float(steps[index]) for index in (one.at, one.low, one.high)]
        ends = (float(each.values[end, :, i].mean()) for end in (0, -1))
        rows.append((each.name.replace("_", " "), each.labels[i], *at, *ends))
    count = sum(len(each.labels) for each in families)
    note = f"{len(having):,} of {count:,} curves have an onset."
    if len(having) > ROWS:
        note += f" These are the {ROWS} whose gain is largest beside its spread."
    forms: tuple[Form, ...] = ("number", "number", "count", "count", "count", "number", "number")
    columns = ("curve", "of", "onset", "from", "to", "first", "last")
    return Table("Onsets", columns, tuple(rows), forms, note)


def summary_of(families: Sequence[Family], onsets: dict[str, list[Onset | None]], steps: Sequence[int]) -> str:
    """A sentence: how many curves have an onset, and the clearest one; "" without curves."""
    count = sum(len(each.labels) for each in families)
    having = _having(families, onsets)
    if not count or not having:
        return f" None of {count:,} curves has an onset." if count else ""
    family, i, one = having[0]
    name, have = family.name.replace("_", " "), "has" if len(having) == 1 else "have"
    start, end = (float(family.values[at, :, i].mean()) for at in (0, -1))
    return (
        f" Of {count:,} curves {len(having):,} {have} an onset; the clearest, {name} of {family.labels[i]}, sets in at step "
        f"{steps[one.at or 0]:,} ({start:.2f} to {end:.2f})."
    )


def _having(families: Sequence[Family], onsets: dict[str, list[Onset | None]]) -> list[tuple[Family, int, Onset]]:
    """The curves that have an onset, by their gain in spreads."""
    every = [(each, i, one) for each in families for i, one in enumerate(onsets[each.name])]
    having = [(each, i, one) for each, i, one in every if one is not None and one.at is not None]
    return sorted(having, key=lambda curve: -abs(curve[2].gain) / max(curve[2].spread, 1e-12))
