"""How fast a run goes: seconds of the whole run, seconds a training step takes, and what is left."""

from __future__ import annotations

import time


class Pace:
    """A clock that starts at `seconds` (those of earlier sittings) and step `step`."""

    def __init__(self, step: int, seconds: float) -> None:
        self.first, self.earlier, self.begun = step, seconds, time.perf_counter()
        self.busy, self.counted = 0.0, 0

    @property
    def time(self) -> float:
        """Seconds of training so far, all sittings together."""
        return self.earlier + time.perf_counter() - self.begun

    def add(self, seconds: float) -> None:
        """One training step took so long, validation and the like not included."""
        self.busy, self.counted = self.busy + seconds, self.counted + 1

    def take(self) -> float:
        """Mean seconds of a training step since this was last asked."""
        mean = self.busy / self.counted
        self.busy, self.counted = 0.0, 0
        return mean

    def left(self, step: int, steps: int) -> float:
        """Seconds until `steps`, judged by this sitting's steps with all that went on between them."""
        return (time.perf_counter() - self.begun) / (step - self.first) * (steps - step)
