"""Pace of a run: seconds in total, seconds per step, and seconds left."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """A clock that starts at `seconds` (of earlier sessions) and step `step`."""

    def __init__(self, step: int, seconds: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.first, self.earlier, self.clock, self.begun = step, seconds, clock, clock()
        self.busy, self.counted = 0.0, 0

    @property
    def time(self) -> float:
        """Seconds of training so far, all sessions together."""
        return self.earlier + self.clock() - self.begun

    def add(self, seconds: float, batches: int = 1) -> None:
        """Adds the duration of a training step of so many batches, without validation and other callbacks."""
        self.busy, self.counted = self.busy + seconds, self.counted + batches

    def take(self) -> float:
        """Mean seconds per batch since the last call."""
        mean = self.busy / self.counted
        self.busy, self.counted = 0.0, 0
        return mean

    def left(self, step: int, steps: int) -> float:
        """Estimated seconds until `steps`, from this session's steps and all that ran between them."""
        return (self.clock() - self.begun) / (step - self.first) * (steps - step)
