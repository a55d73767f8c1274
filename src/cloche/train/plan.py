"""The number of steps of a run and its learning rates: fixed, or re-planned to end near the planned minutes."""

from __future__ import annotations

import bisect
import itertools
from collections import deque
from statistics import fmean, median_low
from typing import Any

from cloche.train.optimizers.schedule import Schedule, milestones

FEWEST = 5  # steps needed to measure the pace
# Of the planned time: the pace is the median over the steps of this long, so that one stall changes nothing.
WINDOW = 0.05
# A pace that gives a run more steps is measured for longer: for half of what is left, at most this share of the time.
PATIENCE = 0.15
LAST = 0.1  # of the steps: tolerance is larger this late, since there is little left to shorten
# Multiples of the planned minutes: a run that would end later than the first is shortened to end at the second.
TOLERANCE = {"late": (1.25, 1.2), "usual": (1.1, 1.05)}
# A run that would end before the first gets more steps, to end at the second: it was shortened while the machine was busy,
# or its pace was measured then.
EARLY = (0.9, 1.0)
ROUNDING = 1e-6  # of a step, in sums of shares of a schedule


class StepPlan:
    """The steps of a run and its schedule. With `seconds` it is re-planned if the machine gets slower or faster;
    without, never.

    `turns` is its whole state: pairs (step, steps planned from then on). A shortened plan goes through the rest of
    the schedule faster, a lengthened one slower, so that the learning rate has no jump and its last update still has
    the final value. A plan that is left one update jumps to it.

    >>> from cloche.train import WSD, StepPlan
    >>> plan = StepPlan(100, WSD(warmup=0.1, final=0.1, decay=0.5))
    >>> plan.steps, plan.rate(0), plan.rate(75)
    (100, 0.1, 0.55)
    """

    def __init__(self, steps: int, schedule: Schedule, seconds: float | None = None) -> None:
        self.schedule, self.seconds = schedule, seconds
        self.turns = [(0, steps)]
        self.until = seconds or 0.0  # when training should end, in seconds of training time
        self.replans: dict[int, int] = {}  # re-plans of an interrupted session, repeated at the same steps
        self.known = 0  # last step of the interrupted session: up to here the clock is ignored
        self.lengthens = True  # a resumed session gives no steps back: it may run on a faster machine
        self._recent: deque[float] = deque()

    @property
    def steps(self) -> int:
        """Number of steps planned now."""
        return self.turns[-1][1]

    def batches(self, step: int) -> int:
        """How many batches make update `step` (from 0)."""
        position = step if len(self.turns) == 1 else self._position(step)
        return self.schedule.batches(position, self.turns[0][1])

    def rate(self, step: int) -> float:
        """The learning rate of update `step` (from 0), as a share of its peak."""
        if len(self.turns) == 1:
            return self.schedule.rate(step, self.steps)
        return self.schedule.rate(self._position(step), self.turns[0][1])

    def _position(self, step: int) -> float:
        """Position of update `step` in the original schedule, in its steps; the last update is at its end."""
        last, position = self.turns[0][1] - 1, 0.0
        if step >= self.steps - 1:  # also where a turn leaves one update, to which no stretch leads
            return float(last)
        for (begin, steps), following in itertools.pairwise([*self.turns, (step, 0)]):
            if (end := min(step, following[0])) > begin:
                position += (last - position) * (end - begin) / max(1, steps - 1 - begin)
        return position

    def progress(self, step: int) -> float:
        """How far `step` updates have come in the original schedule, in its steps: as many, unless the run was re-planned."""
        whole, position = self.turns[0][1], 0.0
        for (begin, steps), following in itertools.pairwise([*self.turns, (step, 0)]):
            end = min(step, following[0])
            position += (whole - position) * (end - begin) / (steps - begin)
            if end == step:
                break
        return position

    # ---- the clock

    def begin(self, step: int, time: float) -> None:
        """Starts a session at `step`, `time` seconds into training. The remaining steps get at least their share of
        the minutes."""
        if self.seconds is not None:
            self.until = max(self.seconds, time + self.seconds * (self.steps - step) / self.turns[0][1])
        self.lengthens = step == 0
        self._recent.clear()

    def took(self, seconds: float) -> None:
        """Records the duration of the last step."""
        if self.seconds is None:
            return
        self._recent.append(seconds)
        total = sum(self._recent)
        while len(self._recent) > FEWEST and total - self._recent[0] >= PATIENCE * self.seconds:
            total -= self._recent.popleft()

    def revise(self, step: int, time: float, beside: float) -> int | None:
        """The new number of steps if it has to change after `step`, else None.

        time: seconds of training so far; beside: seconds that validations, samples and checkpoints will still take.
        """
        if step in self.replans:
            return self._turn(step, self.replans[step])
        if self.seconds is None or step <= self.known or step >= self.steps:
            return None
        if step % max(1, len(self._recent) // 64):
            return None  # looking at many short steps after each of them would take longer than they do
        recent = self._last(WINDOW * self.seconds)
        if not recent:
            return None
        pace, left, planned = median_low(recent), self.steps - step, self.turns[0][1]
        end = time + left * pace + beside
        limit, goal = TOLERANCE["late" if left < LAST * planned else "usual"]
        if end > limit * self.until:
            wanted = self._fitting(step, time, beside, goal, pace)
            return self._turn(step, wanted) if wanted < self.steps else None
        if self.lengthens and left >= LAST * planned and end < EARLY[0] * self.until:
            longer = self._last(min(PATIENCE * self.seconds, left * pace / 2))
            pace = max(pace, fmean(longer or [pace]))  # of a machine that is slow and fast in turn, both
            if longer and time + left * pace + beside < EARLY[0] * self.until:
                return self._turn(step, self._fitting(step, time, beside, EARLY[1], pace))
        return None

    def _last(self, seconds: float) -> list[float]:
        """Durations of the last steps that took so long together; none if there are too few yet."""
        recent: list[float] = []
        total = 0.0
        for duration in reversed(self._recent):
            recent.append(duration)
            total += duration
            if len(recent) >= FEWEST and total >= seconds:
                return recent
        return []

    def _fitting(self, step: int, time: float, beside: float, goal: float, pace: float) -> int:
        return step + max(1, int((goal * self.until - time - beside) / pace))

    def _turn(self, step: int, steps: int) -> int | None:
        if steps == self.steps:
            return None
        self._recent.clear()
        self.turns.append((step, steps))
        return steps

    # ---- checkpoints

    def state(self) -> list[list[int]]:
        """State for `restore`, as JSON."""
        return [list(turn) for turn in self.turns]

    def restore(self, turns: list[list[int]]) -> None:
        """Restores the turns of a checkpoint, unless the number of steps was set by hand since."""
        if self.seconds is not None and turns and turns[0][1] == self.steps:
            self.turns = [(int(step), int(steps)) for step, steps in turns]

    def read_replans(self, step: int, events: list[dict[str, Any]], reached: int) -> None:
        """Reads the re-plans after `step` from the events, so that they are repeated at the same steps, whatever the
        clock says."""
        if self.seconds is None:
            return
        self.replans = {}
        # A session that was stopped before a re-plan that it had read names it in its first event.
        for event in events:
            told = event.get("replans", [])
            told = [*told, (event["step"], event["steps"])] if event.get("kind") == "replan" else told
            self.replans |= {at: steps for at, steps in told if at > step}
        self.known = max(reached, *self.replans, 0) if self.replans else reached


class Milestones:
    """About `count` steps of a plan, dense at the beginning, and step 0 (see `milestones`). In a re-planned run each is
    the first step that has come as far in the schedule, so none is missed or met twice.

    >>> from cloche.train import WSD, Milestones, StepPlan
    >>> saves = Milestones(StepPlan(1000, WSD()), 8)
    >>> [step for step in range(1001) if step in saves]
    [0, 8, 19, 45, 106, 250, 500, 750, 1000]
    >>> saves.left(250)
    3
    """

    def __init__(self, plan: StepPlan, count: int) -> None:
        self.plan, self.count = plan, count
        self._planned, self._steps = 0, list[int]()

    def _met(self, step: int) -> int:
        """How many of the schedule's milestones `step` has come to."""
        if self._planned != self.plan.turns[0][1]:
            self._planned = self.plan.turns[0][1]
            self._steps = milestones(self._planned, self.count, early=True)
        return bisect.bisect_right(self._steps, self.plan.progress(step) + ROUNDING)

    def __contains__(self, step: object) -> bool:
        if not isinstance(step, int) or self.count <= 0 or not 0 <= step <= self.plan.steps:
            return False
        return step == 0 or self._met(step) > self._met(step - 1)

    def left(self, step: int) -> int:
        """Number of these steps after `step`; more where a shortened plan passes several at once."""
        if self.count <= 0:
            return 0
        met = self._met(step)
        return len(self._steps) - met


class Every:
    """Every `steps` steps of a plan, step 0 excluded.

    >>> from cloche.train import WSD, Every, StepPlan
    >>> every = Every(StepPlan(10, WSD()), 4)
    >>> [step for step in range(11) if step in every], every.left(5)
    ([4, 8], 1)
    """

    def __init__(self, plan: StepPlan, steps: int) -> None:
        self.plan, self.every = plan, steps

    def __contains__(self, step: object) -> bool:
        return isinstance(step, int) and step > 0 and step % self.every == 0

    def left(self, step: int) -> int:
        """Number of these steps after `step`."""
        return self.plan.steps // self.every - step // self.every
