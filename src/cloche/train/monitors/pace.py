"""How fast a run goes: seconds of the whole run, seconds per training step, and what is left."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """A clock that starts at `seconds` (those of the sessions before) and step `step`."""

    def __init__(self, step: int, seconds: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.first, self.earlier, self.clock, self.begun = step, seconds, clock, clock()
        self.busy, self.counted = 0.0, 0

    @property
    def time(self) -> float:
        """Seconds of training so far, all sessions together."""
        return self.earlier + self.clock() - self.begun

    def add(self, seconds: float) -> None:
        """One training step took so long, validation and the like not included."""
        self.busy, self.counted = self.busy + seconds, self.counted + 1

    def take(self) -> float:
        """Mean seconds per training step since this was last asked."""
        mean = self.busy / self.counted
        self.busy, self.counted = 0.0, 0
        return mean

    def left(self, step: int, steps: int) -> float:
        """Seconds until `steps`, judged by this session's steps with all that went on between them."""
        return (self.clock() - self.begun) / (step - self.first) * (steps - step)
