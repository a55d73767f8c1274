"""Early warning: says that a run is about to diverge while its loss is still near its usual course."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple, Protocol

from cloche.train.monitors.spikes import TO_SIGMA

WINDOW = 64  # steps whose median is the usual value
LEAST = 20  # steps before there is one
GRADIENTS = 5  # last steps in which the gradients of parts are compared with those before
EARLY = 60  # steps in which a loss may fall as fast as it can
FALL = 0.5  # share of its usual below which a loss is one of text that says nothing, such as padding
SHORT, LONG = 4, 8  # steps whose median is a value of now
NAMES = {"loss": "loss", "grad_norm": "gradient norm"}


class Seen(Protocol):
    """What is seen of a step: `Step` of cloche.train.monitors.steps, or a step read from log/steps.jsonl."""

    @property
    def loss(self) -> float: ...
    @property
    def grad_norm(self) -> float | None: ...
    @property
    def grad_norms(self) -> Sequence[float] | None: ...


@dataclass(frozen=True)
class Tolerance:
    """What of a run's course is still usual under an optimiser (`Optimizer.tolerance`); the values were chosen on runs of four
    families and tested on four others (bench/diagnose).

    The logarithms of loss and gradient norm are measured in deviations from their medians over 64 steps, as robust standard
    deviations of at least `loss_noise` and `gradient_noise`. What they have above `drift` and `gradient_drift`, at most
    `most` a step, is summed up, and the sum never falls below zero (CUSUM; Page 1954). An alarm is raised when the sum of
    the loss, and `gradient_share` of that of the gradient norm, is above `limit`, while the loss is `rise` above its median.

    >>> from cloche.train import Tolerance
    >>> Tolerance(limit=20.0).drift
    0.6
    """

    drift: float = 0.6
    limit: float = 12.0
    most: float = 5.0
    rise: float = 0.012
    gradient_drift: float = 2.6
    gradient_share: float = 0.5
    loss_noise: float = 0.007
    gradient_noise: float = 0.07


@dataclass(frozen=True)
class Jumps:
    """When a loss has jumped, and what it may do then: it has `grace` steps to fall again, as after a few bad batches or at a
    change of text.

    A jump is one step of `deviations` and of `height` in the logarithm, before which the sum was below `calm` of its limit. An
    alarm is raised if it climbs `climbs` times to a new height, which is `climb` above the first, or if after the grace it
    has lost less than `lost` of it; it is back below `back` of it.
    """

    deviations: float = 6.0
    height: float = 0.2
    calm: float = 0.3
    climbs: int = 3
    climb: float = 0.08
    grace: int = 24
    lost: float = 0.23
    back: float = 0.23


JUMPS = Jumps()


class Alarm(NamedTuple):
    """A warning: at which step, which quantity, and in which part of the network gradients grew most; its value now and
    usually.

    >>> from cloche.train import Alarm
    >>> print(Alarm(80, "grad_norm", 1, value=3.0, usual=1.0).message(["embed", "layer 0"]))
    step 80: the gradient norm is 3, 3.00 times its usual 1, and gradients grew most in layer 0: the run may be about to diverge
    """

    step: int
    quantity: str
    place: int | None
    value: float
    usual: float

    def message(self, parts: Sequence[str]) -> str:
        """One sentence. parts: the names of the parts of the network."""
        where = "" if self.place is None else f", and gradients grew most in {parts[self.place]}"
        times = f"{self.value / self.usual:.2f} times its usual {self.usual:.3g}"
        what = f"step {self.step}: the {NAMES[self.quantity]} is {self.value:.3g}, {times}"
        if self.value < self.usual:
            return f"{what}: the batches may say nothing, such as padding, which the network learns to repeat"
        return f"{what}{where}: the run may be about to diverge"


class EarlyWarning:
    """Watches the loss and gradient norm of each step; `add` returns an alarm when they leave their usual course (see
    `Tolerance`), once until they are back. A loss that is not positive, such as that of a policy gradient, has no logarithm:
    its step is not looked at.

    >>> from typing import NamedTuple
    >>> from cloche.train import EarlyWarning
    >>> class Step(NamedTuple):
    ...     loss: float
    ...     grad_norm: float
    ...     grad_norms: tuple[float, ...]
    >>> watch = EarlyWarning()
    >>> losses = [3.0] * 60 + [3.0 * 1.02**i for i in range(20)]
    >>> [alarm.step for i, loss in enumerate(losses) if (alarm := watch.add(i + 1, Step(loss, 1.0, (0.6, 0.8))))]
    [65]
    """

    def __init__(self, tolerance: Tolerance = Tolerance()) -> None:
        self.tolerance = tolerance
        self.seen: deque[Seen] = deque(maxlen=WINDOW)
        self.logs: tuple[deque[float], deque[float]] = deque(maxlen=WINDOW), deque(maxlen=WINDOW)  # loss, gradient norm
        self.count, self.raised = 0, False
        self.sums = [0.0, 0.0]  # of the loss and of the gradient norm
        self.jumped: list[float] | None = None  # logarithms of the losses since a jump
        self.before = 0.0  # the median before it

    def add(self, step: int, seen: Seen) -> Alarm | None:
        """Takes in the next step; its number is only told in the alarm."""
        if seen.loss <= 0:
            return None
        norm = seen.grad_norm or math.nan  # one of exactly zero has no logarithm either
        now = [math.log(seen.loss), math.log(norm)]
        self.count += 1
        self.seen.append(seen)
        if self.jumped is not None:
            self.jumped.append(now[0])
            return self._of_jump(step)
        usual = [_usual(logs) for logs in self.logs]
        self._take(now)
        if usual[0] is None:
            return None
        center, recent = usual[0][0], median(list(self.logs[0])[-LONG:])
        if self.count > EARLY and recent < center + math.log(FALL):
            return self._alarm(step, "loss", math.exp(recent), math.exp(center))
        deviation = (now[0] - center) / max(usual[0][1], self.tolerance.loss_noise)
        calm = self.sums[0] < JUMPS.calm * self.tolerance.limit
        if calm and deviation > JUMPS.deviations and now[0] - center > JUMPS.height:
            self.jumped, self.before = [now[0]], center
            return None
        return self._of_rise(step, now, usual, deviation)

    def _take(self, now: list[float]) -> None:
        for logs, value in zip(self.logs, now, strict=True):
            if math.isfinite(value):
                logs.append(value)

    def _of_rise(self, step: int, now: list[float], usual: list[Any], deviation: float) -> Alarm | None:
        """The alarm of a loss, or of gradients, that go on growing."""
        limits, (center, _) = self.tolerance, usual[0]
        self.sums[0] = max(0.0, self.sums[0] + min(deviation, limits.most) - limits.drift)
        of_gradients = 0.0
        if usual[1] is not None and math.isfinite(now[1]):
            excess = (now[1] - usual[1][0]) / max(usual[1][1], limits.gradient_noise)
            self.sums[1] = max(0.0, self.sums[1] + min(excess, limits.most) - limits.gradient_drift)
            of_gradients = limits.gradient_share * min(self.sums[1], 3 * limits.limit)
        if self.sums[0] + of_gradients <= limits.limit or now[0] - center <= limits.rise:
            self.raised = self.raised and self.sums[0] > 0
            return None
        if of_gradients > self.sums[0]:
            return self._alarm(step, "grad_norm", math.exp(now[1]), math.exp(usual[1][0]))
        return self._alarm(step, "loss", math.exp(now[0]), math.exp(center))

    def _of_jump(self, step: int) -> Alarm | None:
        """The alarm of a loss that climbs further after a jump, or stays where it is."""
        losses, before = self.jumped or [], self.before
        first = losses[: LONG - 2]
        height = max(median(first[: i + 1]) for i in range(len(first)))
        climbs = sum(later > highest for highest, later in _records(losses))
        if climbs >= JUMPS.climbs and losses[-1] == max(losses) and losses[-1] > height + JUMPS.climb:
            return self._after_jump(self._alarm(step, "loss", math.exp(losses[-1]), math.exp(before)))
        if len(losses) >= SHORT and median(losses[-SHORT:]) < before + JUMPS.back * (height - before):
            return self._after_jump(None)
        if len(losses) > JUMPS.grace:
            stays = median(losses[-LONG:]) > height - JUMPS.lost * (height - before)
            alarm = self._alarm(step, "loss", math.exp(median(losses[-LONG:])), math.exp(before)) if stays else None
            return self._after_jump(alarm)
        return None

    def _after_jump(self, alarm: Alarm | None) -> Alarm | None:
        """Goes on from the level that the loss has now, where that is above the one before the jump."""
        higher = max(0.0, median((self.jumped or [])[-SHORT:]) - self.before)
        losses = [value + higher for value in self.logs[0]]
        self.logs[0].clear()
        self.logs[0].extend(losses)
        self.jumped, self.sums = None, [0.0, 0.0]
        return alarm

    def _alarm(self, step: int, quantity: str, value: float, usual: float) -> Alarm | None:
        """The alarm, unless it has been raised already."""
        if self.raised:
            return None
        self.raised = True
        return Alarm(step, quantity, self._place(), value, usual)

    def _place(self) -> int | None:
        """The part whose gradient grew most over its usual norm."""
        norms = [each for seen in self.seen if (each := seen.grad_norms) is not None]
        if len(norms) < 2 * GRADIENTS or len(norms[0]) < 2:
            return None
        now, usual = norms[-GRADIENTS:], norms[:-GRADIENTS]
        growth = [
            median(each[i] for each in now) / max(median(each[i] for each in usual), 1e-30)
            for i in range(len(norms[0]))
        ]
        return max(range(len(growth)), key=growth.__getitem__)

    def state(self) -> dict[str, Any]:
        """State for `restore`, as JSON."""
        steps = [(seen.loss, seen.grad_norm, seen.grad_norms) for seen in self.seen]
        kept = {"steps": steps, "logs": [list(logs) for logs in self.logs], "sums": list(self.sums)}
        jump = {"jumped": self.jumped, "before": self.before}
        return {**kept, **jump, "count": self.count, "raised": self.raised}

    def restore(self, state: dict[str, Any]) -> None:
        self.seen = deque((_Kept(*step) for step in state["steps"]), maxlen=WINDOW)
        loss, norm = state["logs"]
        self.logs = deque(loss, maxlen=WINDOW), deque(norm, maxlen=WINDOW)
        self.sums, self.jumped, self.before = state["sums"], state["jumped"], state["before"]
        self.count, self.raised = state["count"], state["raised"]


class _Kept(NamedTuple):
    loss: float
    grad_norm: float | None
    grad_norms: Sequence[float] | None


def _usual(logs: deque[float]) -> tuple[float, float] | None:
    """The median, and the robust standard deviation of the noise: differences of successive steps are insensitive to a trend,
    and their variance is twice that of the noise."""
    if len(logs) < LEAST:
        return None
    differences = [abs(b - a) for a, b in pairwise(logs)]
    return median(logs), TO_SIGMA / math.sqrt(2) * median(differences)


def _records(losses: list[float]) -> list[tuple[float, float]]:
    """Each loss after the first with the highest before it."""
    highest, found = losses[0], []
    for loss in losses[1:]:
        found.append((highest, loss))
        highest = max(highest, loss)
    return found
