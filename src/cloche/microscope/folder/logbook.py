"""A run's logs, read once and then incrementally: what the views need, in bounded time and size."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from cloche.errors import ClocheError, InstrumentUnknown
from cloche.microscope.folder.history import AXES, KEYS, VALIDATION_KEYS, Columns
from cloche.microscope.folder.lines import Damage, LogLines, Piece, Record, lines_at, parse_lines
from cloche.microscope.folder.reading import RunFiles, number
from cloche.microscope.folder.records import Events, Health, Samples, clean_event, clean_health, clean_sample

DIGITS = 5  # of health values, if records are left out


class Metrics:
    """The training records and the validation records of metrics.jsonl."""

    def __init__(self) -> None:
        self.train, self.validation = Columns(KEYS), Columns(VALIDATION_KEYS)

    def take(self, piece: Piece, damage: Damage) -> None:
        records = parse_lines(piece, damage)
        self.train.take([record for record in records if "loss" in record])
        self.validation.take([record for record in records if "val_bpb" in record])


class Reading:
    """One log and what is kept of it, restarted when the log was rewritten."""

    def __init__(self, files: RunFiles, log: str, make: Callable[[], Any]) -> None:
        self.lines, self.make = LogLines(files, log), make
        self.kept, self.damage, self.trouble = make(), Damage(log), ""

    def refresh(self) -> Any:
        """What is kept, after reading the appended lines. A log that cannot be read is empty, with a sentence."""
        self.trouble = ""
        try:
            file, size, rewritten = self.lines.open()
        except ClocheError as error:
            self.trouble, file, size, rewritten = str(error), None, 0, True
        if rewritten:
            self.kept, self.damage = self.make(), Damage(self.lines.log)
        if file is not None:
            with file:
                for piece in self.lines.pieces(file, size, self.damage):
                    self.kept.take(piece, self.damage)
        return self.kept

    @property
    def sentences(self) -> list[str]:
        return [text for text in (self.trouble, self.damage.sentence) if text]


class Logbook:
    """The four logs of a run. Thread-safe."""

    def __init__(self, files: RunFiles) -> None:
        self.files = files
        self._lock = threading.Lock()
        self._metrics = Reading(files, "metrics", Metrics)
        self._events = Reading(files, "events", Events)
        self._samples = Reading(files, "samples", Samples)
        self._health = Reading(files, "health", Health)

    def columns(self) -> Metrics:
        """The current metrics."""
        with self._lock:
            metrics: Metrics = self._metrics.refresh()
        return metrics

    def events(self) -> list[Record]:
        with self._lock:
            return list(self._events.refresh().records)

    def history(self) -> dict[str, Any]:
        """The metrics as columns, separately for training and validation, and the events, with the cursors to follow
        them."""
        events, metrics = self.events(), self.columns()
        with self._lock:
            return {
                "train": metrics.train.thinned(),
                "validation": metrics.validation.thinned(),
                "events": events,
                "cursors": self._cursors(self._metrics, self._events),
                "age": self.age(),
                "damaged": self._metrics.sentences + self._events.sentences,
            }

    def window(self, axis: str, low: float, high: float) -> dict[str, Any]:
        """The metrics between two values of an axis (step, time, tokens, flops), thinned on their own."""
        if axis not in AXES:
            raise InstrumentUnknown(f"There is no axis {axis!r}: choose one of {', '.join(AXES)}.")
        metrics = self.columns()
        with self._lock:
            parts = {"train": metrics.train, "validation": metrics.validation}
            return {name: part.thinned(*part.within(axis, low, high)) for name, part in parts.items()}

    def health(self) -> dict[str, Any]:
        with self._lock:
            places = self._health.refresh().shown()
            total = len(self._health.kept.places)
            digits = DIGITS if total > len(places) else None
            records = [clean_health(record, digits) for record in lines_at(self.files, "health", places)]
            lost = len(places) - len(records)
            damaged = [f"log/health.jsonl has lines that are not JSON objects; {lost:,} of those shown are left out."]
            sentences = self._health.sentences + (damaged if lost else [])
            return {"records": records, "total": total, "cursors": self._cursors(self._health), "damaged": sentences}

    def samples(self) -> dict[str, Any]:
        with self._lock:
            places = self._samples.refresh().shown()
            records = [clean_sample(record) for record in lines_at(self.files, "samples", places)]
            total, cursors = self._samples.kept.total, self._cursors(self._samples)
            return {"records": records, "total": total, "cursors": cursors, "damaged": self._samples.sentences}

    def damaged(self) -> list[str]:
        """A sentence per log that has damaged lines or cannot be read, as of the last reading."""
        readings = (self._metrics, self._events, self._samples, self._health)
        return [sentence for reading in readings for sentence in reading.sentences]

    def prompts(self) -> list[str]:
        """The sampled prompts in order."""
        with self._lock:
            return [prompt for prompt in self._samples.refresh().places if prompt]

    def age(self) -> float | None:
        """Seconds since the metrics were last written; None without metrics."""
        try:
            path = self.files.file("log/metrics.jsonl")
            return None if path is None else max(0.0, time.time() - path.stat().st_mtime)
        except (OSError, ClocheError):
            return None

    @staticmethod
    def _cursors(*readings: Reading) -> dict[str, str]:
        return {reading.lines.log: str(reading.lines.cursor) for reading in readings}


def shown(log: str, record: Record) -> Record:
    """One appended record as the page expects it."""
    if log == "metrics":
        return {key: number(record[key]) for key in (*KEYS, *VALIDATION_KEYS) if key in record}
    return {"events": clean_event, "samples": clean_sample, "health": clean_health}[log](record)


def appended(lines: LogLines, damage: Damage, most: int) -> Iterator[tuple[str, list[Record]]]:
    """("rewritten", []) if the log was rewritten, ("behind", []) if more than `most` bytes were appended, which are
    then skipped, and ("records", [...]) for the appended records."""
    file, size, rewritten = lines.open()
    if rewritten:
        yield "rewritten", []
    if file is None:
        return
    with file:
        if size - lines.cursor.offset > most:
            for _ in lines.pieces(file, size, Damage(lines.log)):
                pass
            yield "behind", []
            return
        for piece in lines.pieces(file, size, damage):
            records = [shown(lines.log, record) for record in parse_lines(piece, damage)]
            if records:
                yield "records", records
