"""What the logs say of whether weights changed between two steps, so that checkpoints may rightly hold the same."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cloche.runs.verification.reading import Unreadable, json_object, lines, opened


class Movement:
    """Hashes of the weights by step, as metrics and the events of checkpoints state them, and steps that were skipped."""

    def __init__(self, log: Path) -> None:
        self.hashes: dict[int, str] = {}
        self.skipped: set[int] = set()
        for name in ("metrics", "events"):
            for record in _records(log / f"{name}.jsonl", (b'"weights"', b'"spike"')):
                step, weights = record.get("step"), record.get("weights")
                if type(step) is int and isinstance(weights, str):
                    self.hashes[step] = weights
                if type(step) is int and record.get("kind") == "spike":
                    self.skipped.add(step)
        self.steps = sorted(self.hashes)

    def none(self, first: int, last: int) -> bool:
        """Whether the weights after the step `first` are, by the logs, those after `last`: the hashes stated at both are equal,
        or around them, or every step between was skipped for its loss."""
        if first in self.hashes and last in self.hashes:
            return self.hashes[first] == self.hashes[last]
        if all(step in self.skipped for step in range(first + 1, last + 1)):
            return True
        before, after = bisect_right(self.steps, first) - 1, bisect_left(self.steps, last)
        if before < 0 or after == len(self.steps):
            return False
        return self.hashes[self.steps[before]] == self.hashes[self.steps[after]]


def _records(path: Path, words: tuple[bytes, ...]) -> Iterator[dict[str, Any]]:
    """The readable records of a log that have one of these words; other checks say what is wrong with the rest."""
    try:
        with opened(path) as file:
            for line in lines(file):
                if any(word in line for word in words):
                    try:
                        yield json_object(line)
                    except Unreadable:
                        continue
    except (Unreadable, OSError):
        return
