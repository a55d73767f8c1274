"""Detects loss spikes by robust statistics over recent losses."""

from __future__ import annotations

import math
from collections import deque
from itertools import pairwise
from statistics import median

TO_SIGMA = 1.4826  # median absolute deviation -> standard deviation of a normal distribution


class SpikeGuard:
    """Compares each loss with the median of the recent losses and the median absolute difference between successive
    ones.

    A loss is a spike if it is more than `sigmas` robust standard deviations and at least `floor` nats above the
    median: the first allows for noise, the second for a window with almost none. Spikes do not enter the window, but
    after `patience` in a row the level itself has moved: the window is cleared and training continues.
    """

    def __init__(self, window: int = 64, sigmas: float = 10.0, floor: float = 0.5, patience: int = 5) -> None:
        self.window, self.sigmas, self.floor, self.patience = window, sigmas, floor, patience
        self.losses: deque[float] = deque(maxlen=window)
        self.in_a_row = 0

    def limit(self) -> float:
        """Loss in nats above which the next step is a spike; infinity until the window is half full."""
        if len(self.losses) < self.window // 2:
            return math.inf
        losses = list(self.losses)
        # Differences are insensitive to the slope of a falling loss; their variance is twice that of the noise.
        deviation = TO_SIGMA / math.sqrt(2) * median(abs(b - a) for a, b in pairwise(losses))
        return median(losses[-self.window // 4 :]) + max(self.floor, self.sigmas * deviation)

    def is_spike(self, loss: float) -> bool:
        """Whether a finite loss is a spike; adds it to the window if not."""
        if loss > self.limit():
            self.in_a_row += 1
            if self.in_a_row < self.patience:
                return True
            self.losses.clear()
        self.in_a_row = 0
        self.losses.append(loss)
        return False

    def state(self) -> dict[str, object]:
        """State for `restore`, as JSON."""
        return {"losses": list(self.losses), "in_a_row": self.in_a_row}

    def restore(self, state: dict) -> None:
        self.losses = deque(state["losses"], maxlen=self.window)
        self.in_a_row = state["in_a_row"]
