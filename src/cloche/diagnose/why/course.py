"""The course of a run: what its loss did, when it went wrong, and what moved first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cloche.diagnose.divergence import first_divergence
from cloche.diagnose.history import HEALTH, History, filled, named_series
from cloche.diagnose.robust import TO_SIGMA, robust_deviation

SMOOTH = 15  # steps of a running median
BEFORE = 60  # steps looked through for what moved before the loss did
USUAL = 50  # steps that usual values are taken of, before those
OUTSIDE = 6.0  # robust standard deviations from usual values
FLOOR = 0.08  # of a quantity's logarithm: the least spread there is
EARLY = 20  # first steps
RISEN = 0.5  # nats above its first by which a loss has left its course in them, if it rises by twice that
JUMP = 0.35  # nats by which a loss must rise at once, and 5 robust deviations, to count as a jump
RECOVERED = 0.25  # of a jump: what is left of it when the loss has recovered


@dataclass(frozen=True)
class Mover:
    """The first quantity to leave its usual range, and where: by `sigmas` robust standard deviations of its logarithm."""

    step: int
    quantity: str
    place: str
    sigmas: float
    value: float
    usual: float


@dataclass(frozen=True)
class Course:
    """What the loss of a run did, in nats per token where nothing else is said.

    diverged: the step of `first_divergence`, or the one at which a loss that is not finite ended it. onset: the step at which
    things went wrong; movers: what left its usual range before. first, best, last: of the smoothed loss. early: the highest
    loss of the first 20 steps, above the first. jump: by how much the loss rose at its largest sudden rise, and `jumped` at
    which step. left: the share of the jump that was still there 20 steps later. spikes: sudden rises.
    """

    steps: int
    diverged: int | None
    onset: int | None
    movers: tuple[Mover, ...]
    first: float
    best: float
    last: float
    early: float
    jump: float
    jumped: int | None
    left: float
    spikes: int

    @property
    def mover(self) -> Mover | None:
        """What moved first."""
        return self.movers[0] if self.movers else None

    @property
    def rise(self) -> float:
        """By how much the loss ended above its best, as a share of what it had fallen."""
        return (self.last - self.best) / max(self.first - self.best, 0.1)


def course_of(history: History) -> Course:
    """Raises nothing: a run that was not trained has a course of zero steps."""
    losses = np.minimum(np.nan_to_num(history.losses, nan=np.nan, posinf=1e6), 1e6)
    known = losses[~np.isnan(losses)]
    if not len(known):
        nothing = float("nan")
        ended = history.nonfinite
        return Course(0, ended, ended, (), nothing, nothing, nothing, 0.0, 0.0, None, 0.0, 0)
    losses = filled(losses)
    smooth = running_median(losses, SMOOTH)
    diverged = first_divergence(filled(history.losses).tolist())
    diverged = history.nonfinite if diverged is None else diverged
    jump, jumped, spikes = jumps(losses)
    before = float(np.median(losses[max(0, (jumped or 1) - 1 - 10) : max(1, (jumped or 1) - 1)]))
    soon = losses[(jumped or 0) + 15 : (jumped or 0) + 25]
    left = (float(np.median(soon)) - before) / jump if jumped and len(soon) else float(jumped is not None)
    first = float(np.median(losses[:3]))
    last = float(np.median(losses[-max(5, len(losses) // 20) :]))
    seen = diverged if diverged is not None else jumped if jumped and left > RECOVERED else None
    movers = movers_of(history, seen) if seen is not None else ()
    began = [mover.step for mover in movers[:1]]
    if jumped is not None and (seen is None or (left > RECOVERED and seen - BEFORE <= jumped <= seen)):
        began.append(jumped)
    early = float(losses[:EARLY].max() - first)
    if early > 2 * RISEN and (seen is None or seen - BEFORE <= EARLY):
        began.append(int(np.argmax(losses > first + RISEN)) + 1)
    onset = min(began, default=seen)
    best = float(min(smooth.min(), first))
    return Course(history.steps, diverged, onset, movers, first, best, last, early, jump, jumped, left, spikes)


def running_median(values: np.ndarray, width: int) -> np.ndarray:
    """The median of the last `width` values at each place (of fewer at the start)."""
    padded = np.concatenate([np.full(width - 1, np.nan), values])
    return np.nanmedian(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1)


def jumps(losses: np.ndarray) -> tuple[float, int | None, int]:
    """The largest sudden rise of the loss above the median of the 10 steps before it: its height, its step and how many there
    were."""
    if len(losses) < 8:
        return 0.0, None, 0
    found: list[tuple[float, int]] = []
    noise = TO_SIGMA / 2**0.5 * float(np.median(np.abs(np.diff(losses))))
    for t in range(4, len(losses)):
        level = float(np.median(losses[max(0, t - 10) : t]))
        rise = float(losses[t : t + 2].min() if t + 1 < len(losses) and losses[t + 1] > level else losses[t]) - level
        if losses[t] - level > max(JUMP, 5 * noise):
            found.append((max(rise, float(losses[t]) - level), t + 1))
    if not found:
        return 0.0, None, 0
    starts = [step for i, (_, step) in enumerate(found) if i == 0 or step - found[i - 1][1] > 10]
    height, _ = max(found)
    begun = max(start for start in starts if start <= max(found)[1])
    return height, begun, len(starts)


def movers_of(history: History, seen: int) -> tuple[Mover, ...]:
    """The quantities that rose out of their usual range before the loss did at step `seen`, and stayed outside of it for most
    of the steps between: the first to do so first, and of those of one step a part's before that of the whole."""
    begin = max(0, seen - BEFORE)
    usual = slice(max(0, begin - USUAL), max(begin, min(seen // 2, 15), 3))
    every = [
        (quantity, place, np.arange(1, len(values) + 1), values) for quantity, place, values in named_series(history)
    ]
    for name, (steps, table) in history.health.items():
        every += [(HEALTH[name], f"layer {i}", steps, table[:, i]) for i in range(table.shape[1])]
    found = [_moved(*each, usual, seen) for each in every]
    return tuple(sorted((m for m in found if m is not None), key=lambda m: (m.step, not m.place, -m.sigmas)))


def _moved(quantity: str, place: str, steps: np.ndarray, values: np.ndarray, usual: slice, seen: int) -> Mover | None:
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.where(values > 0, values, np.nan))
    logs, values = logs[steps <= seen], values[steps <= seen]
    known = (steps > usual.start) & (steps <= usual.stop)
    before = logs[known[: len(logs)] & np.isfinite(logs)]
    if len(before) < 3:
        return None
    middle = float(np.median(before))
    spread = max(FLOOR, robust_deviation(before))
    sigmas = np.nan_to_num((logs - middle) / spread, nan=0.0)
    outside = sigmas > OUTSIDE  # what falls, as in a decay of the rate, is no sign of harm
    outside[: int((steps <= usual.stop).sum())] = False
    for i in np.flatnonzero(outside).tolist():
        if outside[i:].mean() > 0.5:
            return Mover(int(steps[i]), quantity, place, float(sigmas[i]), float(values[i]), float(np.exp(middle)))
    return None
