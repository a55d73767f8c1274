"""Tells a loss spike from noise, by robust statistics over the recent past."""

from __future__ import annotations

import math
from collections import deque
from itertools import pairwise
from statistics import median

TO_SIGMA = 1.4826  # median absolute deviation -> standard deviation of a normal distribution


class SpikeGuard:
    """Judges each step's loss by the median of the last losses and their median absolute deviation from one to the next.

    A loss is a spike when it stands more than `sigmas` robust standard deviations and at least `floor` nats above the
    median: the first keeps ordinary noise out, the second a window so calm that its deviation means nothing. Spikes do not
    enter the window, but after `patience` in a row the level itself has moved: it starts afresh and learning goes on.
    """

    def __init__(self, window: int = 64, sigmas: float = 10.0, floor: float = 0.5, patience: int = 5) -> None:
        self.window, self.sigmas, self.floor, self.patience = window, sigmas, floor, patience
        self.losses: deque[float] = deque(maxlen=window)
        self.in_a_row = 0

    def limit(self) -> float:
        """The loss above which the next step is a spike, nats; infinity until the window is half full."""
        if len(self.losses) < self.window // 2:
            return math.inf
        losses = list(self.losses)
        # Differences do not see the slope of a loss that still falls fast; theirs is twice the variance of the noise.
        deviation = TO_SIGMA / math.sqrt(2) * median(abs(b - a) for a, b in pairwise(losses))
        return median(losses[-self.window // 4 :]) + max(self.floor, self.sigmas * deviation)

    def is_spike(self, loss: float) -> bool:
        """Judges a finite loss and remembers it."""
        if loss > self.limit():
            self.in_a_row += 1
            if self.in_a_row < self.patience:
                return True
            self.losses.clear()
        self.in_a_row = 0
        self.losses.append(loss)
        return False

    def state(self) -> dict[str, object]:
        """What `restore` needs, as JSON."""
        return {"losses": list(self.losses), "in_a_row": self.in_a_row}

    def restore(self, state: dict) -> None:
        self.losses = deque(state["losses"], maxlen=self.window)
        self.in_a_row = state["in_a_row"]
