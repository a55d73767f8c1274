"""Early warning: says that a run is about to diverge while its loss is still near its lowest level."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple, Protocol

RECENT = 8  # steps whose median is the loss of now
BEFORE = 24  # steps before them, whose median is a level it had
HALF = RECENT // 2
GRADIENTS = 5  # steps whose median is the gradient norm of now
USUAL = 64  # steps before them, whose median is the usual one
EARLY = 60  # steps in which a loss may fall as fast as it can

# A loss that jumps, as at a change of text, has some steps to fall again.
JUMP = 0.15  # of the loss, by which one step is above all four before it
CALM = 1.05  # times its level: what is below is back
GRACE = 24  # steps after a jump in which only a further climb is an alarm
CLIMB = 1.1  # times the height after the jump
BACK = 0.93  # of that height: a loss below it after the grace has taken a new level and falls from there


class Seen(Protocol):
    """What is seen of a step: `Step` of cloche.train.monitors.steps, or a step read from log/steps.jsonl."""

    loss: float
    grad_norm: float | None

    @property
    def grad_norms(self) -> Sequence[float] | None: ...


@dataclass(frozen=True)
class Tolerance:
    """What of a run's course is still usual under an optimiser (`Optimizer.tolerance`).

    rise: of the loss over the lowest level that it has had. surge: of the gradient norm over its usual; then a rise of
    `slight` is enough. stays: steps that either must last. falling: a loss of the last four steps below this share of the
    four before is on its way back. fall: of the loss below its level, within so few steps, as text that says nothing gives.

    >>> from cloche.train import Tolerance
    >>> Tolerance(rise=1.2).surge
    1.8
    """

    rise: float = 1.08
    slight: float = 1.05
    surge: float = 1.8
    stays: int = 4
    falling: float = 0.95
    fall: float = 0.5


NAMES = {"loss": "loss", "grad_norm": "gradient norm"}


class Alarm(NamedTuple):
    """A warning: at which step, which quantity, and in which part of the network gradients grew most; its value now and
    usually.

    >>> from cloche.train import Alarm
    >>> print(Alarm(180, "grad_norm", 1, value=3.0, usual=1.0).message(["embed", "layer 0", "head"]))
    step 180: the gradient norm is 3, 3.00 times its usual 1, and gradients grew most in layer 0: the run is about to diverge
    """

    step: int
    quantity: str
    place: int | None
    value: float
    usual: float

    def message(self, parts: Sequence[str]) -> str:
        """One sentence. parts: the names of the parts of the network."""
        where = "" if self.place is None else f", and gradients grew most in {parts[self.place]}"
        return (
            f"step {self.step}: the {NAMES[self.quantity]} is {self.value:.3g}, {self.value / self.usual:.2f} times "
            f"its usual {self.usual:.3g}{where}: the run is about to diverge"
        )


class EarlyWarning:
    """Watches the loss and gradient norm of each step; `add` returns an alarm when they leave their usual course, once until
    they are back.

    The loss is compared with the lowest level that it has had, a median of 24 steps, and the gradient norm with the median of
    the 64 before. A loss that jumps and falls again, as after a few bad batches or at a change of text, raises none.

    >>> from typing import NamedTuple
    >>> from cloche.train import EarlyWarning
    >>> class Step(NamedTuple):
    ...     loss: float
    ...     grad_norm: float
    ...     grad_norms: tuple[float, ...]
    >>> watch = EarlyWarning()
    >>> losses = [3.0] * 60 + [3.0 * 1.02**i for i in range(20)]
    >>> [alarm.step for i, loss in enumerate(losses) if (alarm := watch.add(i + 1, Step(loss, 1.0, (0.6, 0.8))))]
    [72]
    """

    def __init__(self, tolerance: Tolerance = Tolerance()) -> None:
        self.tolerance = tolerance
        self.seen: deque[Seen] = deque(maxlen=USUAL + GRADIENTS)
        self.count, self.level, self.unusual, self.raised = 0, math.inf, 0, False
        self.since: int | None = None  # steps since the loss jumped
        self.height = 0.0  # of the loss after it jumped

    def add(self, step: int, seen: Seen) -> Alarm | None:
        """Takes in the next step; its number is only told in the alarm."""
        self.count += 1
        self.seen.append(seen)
        if self.count < BEFORE + RECENT:
            return None
        losses = [each.loss for each in self.seen][-BEFORE - RECENT :]
        before, now = median(losses[:BEFORE]), median(losses[BEFORE:])
        if now < self.tolerance.fall * before and self.count > EARLY:
            return self._once(Alarm(step, "loss", None, now, before))
        if self.since is None:
            self.level = min(self.level, before)
            self._look_for_jump(losses[-RECENT:])
        alarm = self._of_jump(step, now, losses) if self.since is not None else self._of_rise(step, now, losses)
        return None if alarm is None else self._once(alarm)

    def _of_rise(self, step: int, now: float, losses: list[float]) -> Alarm | None:
        """The alarm of a loss, or of gradients, that grow from step to step."""
        norms = [math.inf if each.grad_norm is None else each.grad_norm for each in self.seen]
        usual, norm = median(norms[:-GRADIENTS]), median(norms[-GRADIENTS:])
        rises = now > self.tolerance.rise * self.level
        surges = norm > self.tolerance.surge * usual and now > self.tolerance.slight * self.level
        self.unusual = self.unusual + 1 if rises or surges else 0
        if median(losses[-HALF:]) < self.tolerance.falling * median(losses[-RECENT:-HALF]):  # on its way back
            self.unusual = max(0, self.unusual - 2)
        if self.unusual < self.tolerance.stays:
            self.raised = self.raised and self.unusual > 0
            return None
        quantity, value, ordinary = ("loss", now, self.level) if rises else ("grad_norm", norm, usual)
        return Alarm(step, quantity, self._place(), value, ordinary)

    def _look_for_jump(self, recent: list[float]) -> None:
        before, after = recent[:HALF], recent[HALF:]
        if after[0] - max(before) > JUMP * median(before) and median(before) < CALM * self.level:
            self.since, self.height = HALF - 1, median(after)

    def _of_jump(self, step: int, now: float, losses: list[float]) -> Alarm | None:
        """The alarm of a loss that climbs further after a jump, or stays where it is."""
        assert self.since is not None
        self.since += 1
        latest = median(losses[-HALF:])
        if latest < CALM * self.level and now < self.tolerance.rise * self.level:
            self.since = None
        elif self.since > GRACE:
            self.since, lower = None, now < BACK * self.height
            if not lower:
                return Alarm(step, "loss", self._place(), now, self.level)
            self.level, self.unusual = now, 0
        elif self.since > RECENT and latest > CLIMB * self.height:
            return Alarm(step, "loss", self._place(), latest, self.level)
        return None

    def _once(self, alarm: Alarm) -> Alarm | None:
        """The alarm, unless it has been raised already."""
        if self.raised:
            return None
        self.raised = True
        return alarm

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
        level = self.level if math.isfinite(self.level) else None
        jump = {"since": self.since, "height": self.height}
        return {
            "steps": steps,
            "count": self.count,
            "level": level,
            "unusual": self.unusual,
            "raised": self.raised,
            **jump,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.seen.extend(_Kept(*step) for step in state["steps"])
        self.count, self.unusual, self.raised = state["count"], state["unusual"], state["raised"]
        self.since, self.height = state["since"], state["height"]
        self.level = math.inf if state["level"] is None else state["level"]


class _Kept(NamedTuple):
    loss: float
    grad_norm: float | None
    grad_norms: Sequence[float] | None
