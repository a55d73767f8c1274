"""Samples, health records and events of a run, limited to what a page can show.

A health record or a sample is kept as the position of its line; only those shown are parsed. Every field is converted to the
type that the page expects, so that a foreign or damaged record cannot break a view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cloche.microscope.folder.lines import Damage, Piece, parse_each, parse_lines
from cloche.microscope.folder.reading import number, words

HEALTH_COLUMNS = 600
SAMPLE_MOMENTS = 200
MOST_PROMPTS = 40
MOST_EVENTS = 2000
ALARMS = ("spike", "warning", "nonfinite")
STATES = ("start", "resume", "stopped", "finished", "nonfinite")
LAYERED = (
    *("resid_variance", "attention_entropy", "activation_density", "dead_units", "update_ratio"),
    *("weight_norm", "rank", "kurtosis", "gain"),
)
NUMBERS = ("logit_norm", "grad_norm", "usual_update_ratio", "noise_scale")
Record = dict[str, Any]
Place = tuple[int, int]


def thin(records: Sequence[Any], most: int) -> list[Any]:
    """At most `most` records, evenly spaced, always including the last."""
    if len(records) <= most:
        return list(records)
    last = len(records) - 1
    return [records[round(i * last / (most - 1))] for i in range(most)]


def clean_event(record: Record) -> Record:
    """{"kind", "message", "step"?, "time"?}"""
    cleaned: Record = {"kind": words(record.get("kind"), 60), "message": words(record.get("message"), 2000)}
    return cleaned | {key: value for key in ("step", "time") if (value := number(record.get(key))) is not None}


def clean_sample(record: Record) -> Record:
    """{"step", "prompt", "text", "next"}"""
    given = record.get("next")
    pairs = given if isinstance(given, list) else []
    return {
        "step": number(record.get("step")) or 0,
        "prompt": words(record.get("prompt")),
        "text": words(record.get("text")),
        "next": [pair for each in pairs[:50] if (pair := token_pair(each)) is not None],
    }


def token_pair(pair: Any) -> list[Any] | None:
    """[token, number]; None for anything else."""
    if not isinstance(pair, list) or len(pair) != 2:
        return None
    value = number(pair[1])
    return None if value is None else [words(pair[0], 200), value]


def clean_health(record: Record, digits: int | None = None) -> Record:
    """The record's numbers, lists of numbers and lists of such lists; anything else is left out. With `digits` the
    values per layer are rounded to that many significant digits, which a heat map does not show."""

    def value(given: Any) -> float | int | None:
        found = number(given)
        return found if digits is None or found is None else float(f"{found:.{digits}g}")

    cleaned: Record = {"step": number(record.get("step")) or 0}
    for key in LAYERED:
        if isinstance(record.get(key), list):
            cleaned[key] = [[value(v) for v in row] if isinstance(row, list) else value(row) for row in record[key]]
    if isinstance(alarms := record.get("alarms"), list):
        cleaned["alarms"] = [words(alarm) for alarm in alarms]
    if isinstance(limits := record.get("limits"), dict):
        ends = {words(key, 60): value for key, value in limits.items() if isinstance(value, list) and len(value) == 2}
        cleaned["limits"] = {key: [number(low), number(high)] for key, (low, high) in ends.items()}
    return cleaned | {key: found for key in NUMBERS if (found := number(record.get(key))) is not None}


class Events:
    """The events in order. If there are too many, the newest are kept, those that define the run's state, and some of
    the alarms."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def take(self, piece: Piece, damage: Damage) -> None:
        self.records += [clean_event(record) for record in parse_lines(piece, damage)]
        if len(self.records) > 2 * MOST_EVENTS:
            older, newer = self.records[:-MOST_EVENTS], self.records[-MOST_EVENTS:]
            alarms = [e for e in older if e["kind"] in ALARMS]
            states = [e for e in older if e["kind"] in STATES and e["kind"] not in ALARMS][-20:]
            kept = {id(e) for e in (*thin(alarms, MOST_EVENTS // 4), *states)}
            self.records = [e for e in older if id(e) in kept] + newer


class Samples:
    """Positions of the samples' lines by prompt."""

    def __init__(self) -> None:
        self.places: dict[str, list[Place]] = {}
        self.total = 0

    def take(self, piece: Piece, damage: Damage) -> None:
        for place, record in parse_each(piece, damage):
            prompt = words(record.get("prompt"))
            if prompt in self.places or len(self.places) < MOST_PROMPTS:
                self.places.setdefault(prompt, []).append(place)
            self.total += 1

    def shown(self) -> list[Place]:
        """At most SAMPLE_MOMENTS samples per prompt, evenly spaced, in the order of the log."""
        return sorted(place for places in self.places.values() for place in thin(places, SAMPLE_MOMENTS))


class Health:
    """Positions of the health records' lines."""

    def __init__(self) -> None:
        self.places: list[Place] = []

    def take(self, piece: Piece, damage: Damage) -> None:
        # Parsed only when shown: health records are long, and only some of many are shown.
        self.places += [place for place in piece.places() if place[1]]

    def shown(self) -> list[Place]:
        return thin(self.places, HEALTH_COLUMNS)
