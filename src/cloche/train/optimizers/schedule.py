"""Schedules of a run: the learning rate, and the steps of checkpoints, validations and samples. Pure functions."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from cloche.errors import SettingInvalid, shown
from cloche.part import Part, positive, within

CHECKED = 1000  # steps of a schedule


@dataclass(frozen=True)
class Schedule(Part, ABC):
    """Base of schedules: the learning rate over a run, as a share of its peak. It rises over the first `warmup` share
    of the steps, then follows `after`, which a subclass defines: 1 at the first update after the warm-up, and `final` one
    update after the last. accumulate: batches whose gradients make one update, as one large batch would; with `ramp` their
    number rises from 1 to that in equal stages over this share of the steps.

    >>> from dataclasses import dataclass
    >>> from cloche.train import Schedule
    >>> @dataclass(frozen=True)
    ... class Halves(Schedule):
    ...     def after(self, step, rising, steps):
    ...         return max(self.final, 0.5 ** (step - rising))
    >>> [Halves(warmup=0.2, final=0.1).rate(step, 10) for step in range(6)]
    [0.5, 1.0, 1.0, 0.5, 0.25, 0.125]
    """

    warmup: float = 0.04
    final: float = 0.05
    accumulate: int = field(default=1, kw_only=True)
    ramp: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        positive(self, accumulate=self.accumulate)
        within(self, warmup=(0, 1), final=(0, 1), ramp=(0, 1), accumulate=(1, 2**20))

    def rate(self, step: float, steps: int) -> float:
        """Share of the peak at update `step` (0 .. steps - 1, fractions allowed); always above zero."""
        rising = math.ceil(self.warmup * steps)
        if step < rising:
            return (step + 1) / rising if step + 1 < rising else 1.0
        return self.after(step, rising, steps)

    def batches(self, step: float, steps: int) -> int:
        """How many batches make update `step`.

        >>> from cloche.train import Cosine
        >>> [Cosine(accumulate=4, ramp=0.5).batches(step, 16) for step in range(10)]
        [1, 1, 2, 2, 3, 3, 4, 4, 4, 4]
        """
        rising = self.ramp * steps
        return self.accumulate if step >= rising else 1 + int(step / rising * self.accumulate)

    @abstractmethod
    def after(self, step: float, rising: int, steps: int) -> float:
        """Share of the peak at update `step`, after the first `rising` ones."""


@dataclass(frozen=True)
class Constant(Schedule):
    """The peak at every update after the warm-up. `final` can only be 1.

    >>> from cloche.train import Constant
    >>> [Constant(warmup=0.4).rate(step, 10) for step in (0, 1, 3, 9)]
    [0.25, 0.5, 1.0, 1.0]
    """

    final: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.final != 1:
            raise SettingInvalid(
                f"Constant(final={self.final:g}) must end at the peak, so its final is 1: leave it out, or use Linear."
            )

    def after(self, step: float, rising: int, steps: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line from the peak to `final` over all steps after the warm-up.

    >>> from cloche.train import Linear
    >>> [round(Linear(warmup=0.0, final=0.0).rate(step, 100), 2) for step in (0, 50, 99)]
    [1.0, 0.5, 0.01]
    """

    def after(self, step: float, rising: int, steps: int) -> float:
        return self.final + (1 - self.final) * (steps - step) / max(1, steps - rising)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from the peak to `final` over all steps after the warm-up (Loshchilov & Hutter, 1608.03983).

    >>> from cloche.train import Cosine
    >>> [round(Cosine(warmup=0.0, final=0.1).rate(step, 100), 2) for step in (0, 50, 99)]
    [1.0, 0.55, 0.1]
    """

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


@dataclass(frozen=True)
class InverseSquareRoot(Schedule):
    """The square root of (updates of the warm-up / updates so far), never below `final` (Vaswani et al., 1706.03762).

    Over the last `decay` share of all steps it falls linearly to `final` instead (Zhai et al., 2106.04560). Without a
    warm-up it falls from the first update on.

    >>> from cloche.train import InverseSquareRoot
    >>> [round(InverseSquareRoot(warmup=0.04, decay=0.0).rate(step, 100), 2) for step in (3, 4, 16, 64)]
    [1.0, 1.0, 0.5, 0.25]
    >>> [round(InverseSquareRoot(warmup=0.04, final=0.0, decay=0.36).rate(step, 100), 3) for step in (64, 82, 99)]
    [0.25, 0.125, 0.007]
    """

    decay: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, decay=(0, 1))

    def after(self, step: float, rising: int, steps: int) -> float:
        falling = min(math.ceil(self.decay * steps), steps - rising)
        left = steps - step
        least = max(1, rising)
        slow = max(self.final, math.sqrt(least / max(least, min(step, steps - falling))))
        return slow if left >= falling else self.final + (slow - self.final) * left / falling


def check_schedule(schedule: Schedule, steps: int) -> None:
    """Raises ClocheError if a schedule of a subclass has a rate or a number of batches that no update can take, at any of up
    to a thousand steps.

    >>> from cloche.train.optimizers.schedule import WSD, check_schedule
    >>> check_schedule(WSD(), 100)
    """
    for step in sorted({round(i * (steps - 1) / CHECKED) for i in range(CHECKED + 1)}):
        rate, batches, name = schedule.rate(step, steps), schedule.batches(step, steps), type(schedule).__name__
        if not isinstance(rate, int | float) or not 0 <= rate < math.inf:
            raise SettingInvalid(
                f"[schedule] {name} has the rate {shown(rate)} at update {step:,} of {steps:,}; it must be a finite number "
                "that is not below zero: correct its `after`."
            )
        if not isinstance(batches, int) or batches < 1:
            raise SettingInvalid(
                f"[schedule] {name} makes update {step:,} of {shown(batches)} batches; let `batches` return at least 1."
            )


def milestones(steps: int, count: int, early: bool = False) -> list[int]:
    """About `count` distinct steps in 1 .. steps, always including the last.

    Evenly spaced; with `early`, half of them at factors of two to four before the first even one, since a model
    changes most at the beginning.
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
