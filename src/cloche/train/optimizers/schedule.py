"""When things happen in a run: the learning rate, and the steps of checkpoints, validations and samples. Pure functions."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from cloche.part import Part, within


@dataclass(frozen=True)
class Schedule(Part, ABC):
    """The learning rate over a run, as a share of its peak: it rises over the first `warmup` share of all steps, then does as
    `after` says, and ends at `final`: the base of `WSD`, `Cosine` and your own, which defines `after`.
    """

    warmup: float = 0.04
    final: float = 0.05

    def __post_init__(self) -> None:
        within(self, warmup=(0, 1), final=(0, 1))

    def rate(self, step: float, steps: int) -> float:
        """The share of the peak for update `step` (0 .. steps - 1, also between two); pure, above zero."""
        rising = math.ceil(self.warmup * steps)
        if step < rising:
            return (step + 1) / rising if step + 1 < rising else 1.0
        return self.after(step, rising, steps)

    @abstractmethod
    def after(self, step: float, rising: int, steps: int) -> float:
        """The share of the peak for an update `step` past the first `rising` ones."""


@dataclass(frozen=True)
class Cosine(Schedule):
    """Falls as half a cosine over all that is left after the warm-up (Loshchilov & Hutter, 1608.03983)."""

    def after(self, step: float, rising: int, steps: int) -> float:
        done = (step - rising) / max(1, steps - rising)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class WSD(Schedule):
    """Warm-up, stable, decay: holds the peak and falls linearly over the last `decay` share of all steps (2404.06395).

    >>> from cloche.train import WSD
    >>> WSD(warmup=0.1, final=0.1, decay=0.5).rate(75, 100)
    0.55
    """

    decay: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, decay=(0, 1))

    def after(self, step: float, rising: int, steps: int) -> float:
        falling = min(math.ceil(self.decay * steps), steps - rising)
        left = steps - step  # 1 at the last update
        return 1.0 if left > falling else self.final + (1 - self.final) * left / falling


def milestones(steps: int, count: int, early: bool = False) -> list[int]:
    """About `count` distinct steps in 1 .. steps, the last always among them.

    Evenly spaced, or, with `early`, half of them spaced by factors of two to four before the first even one: most of what
    a model learns it learns at once, and that is when one wants to look.
    """
    if not early or count < 4:
        return sorted({max(1, round(steps * (i + 1) / count)) for i in range(count)})
    even = count // 2
    first = max(1, round(steps / even))
    logarithmic = count - even
    begin = max(1, round(first / 4**logarithmic), min(8, first))
    growth = (first / begin) ** (1 / logarithmic)
    steps_early = [max(1, round(begin * growth**i)) for i in range(logarithmic)]
    return sorted({*steps_early, *milestones(steps, even)})
