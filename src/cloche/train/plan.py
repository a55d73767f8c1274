"""How many steps a run takes, and what is left of its learning rate: fixed in steps, or re-planned to end near its minutes."""

from __future__ import annotations

import itertools
from collections import deque
from statistics import median_low
from typing import Any

from cloche.train.optimizers.schedule import Schedule, milestones

FEWEST = 5  # steps that a judgement of the pace rests on
WINDOW = 0.05  # of the planned time: the steps of so long are judged by their median, so that one stall changes nothing
LAST = 0.1  # of the steps: a change of pace so late is met with more patience, for little is left to shorten
# Times the planned minutes: where a run that would end later than the first is shortened to end at the second.
TOLERANCE = {"late": (1.25, 1.2), "usual": (1.1, 1.05)}
EARLY = (
    0.9,
    1.0,
)  # a run that was shortened, and would now end before the first, is given steps back to end at the second


class StepPlan:
    """The steps of a run and its schedule. With `seconds` it is re-planned where the machine gets slower; without, never.

    `turns` is all there is to know of it: (step, steps planned from there on). A shortened plan passes through what was left
    of the schedule faster, so that the learning rate has no jump and still falls to its end.
    """

    def __init__(self, steps: int, schedule: Schedule, seconds: float | None = None) -> None:
        self.schedule, self.seconds = schedule, seconds
        self.turns = [(0, steps)]
        self.until = seconds or 0.0  # when training should end, in seconds of training
        self.foretold: dict[
            int, int
        ] = {}  # re-plans that an interrupted session made, to be made again at the same steps
        self.known = 0  # up to this step a session has gone before: the clock decides nothing
        self.lengthens = (
            True  # a session that goes on from a checkpoint gives no steps back: it may be a faster machine's
        )
        self._recent: deque[float] = deque()

    @property
    def steps(self) -> int:
        """The number of steps that the run takes as it is planned now."""
        return self.turns[-1][1]

    def rate(self, step: int) -> float:
        """The learning rate of update `step` (from 0), as a share of its peak."""
        if len(self.turns) == 1:
            return self.schedule.rate(step, self.steps)
        return self.schedule.rate(self._position(step), self.turns[0][1])

    def _position(self, step: int) -> float:
        """Where update `step` stands in the schedule that was planned at first, in its steps; the last update stands last."""
        last, position = self.turns[0][1] - 1, 0.0
        for (begin, steps), following in itertools.pairwise([*self.turns, (step, 0)]):
            end = min(step, following[0])
            if steps - 1 > begin:
                position += (last - position) * (end - begin) / (steps - 1 - begin)
            else:
                position = float(last)
            if end == step:
                break
        return position

    # ---- the clock

    def begin(self, step: int, time: float) -> None:
        """A session begins at `step`, `time` seconds into training; the steps left have at least their share of the minutes."""
        if self.seconds is not None:
            self.until = max(self.seconds, time + self.seconds * (self.steps - step) / self.turns[0][1])
        self.lengthens = step == 0
        self._recent.clear()

    def took(self, seconds: float) -> None:
        """The last step took so long."""
        if self.seconds is None:
            return
        self._recent.append(seconds)
        total = sum(self._recent)
        while len(self._recent) > FEWEST and total - self._recent[0] >= WINDOW * self.seconds:
            total -= self._recent.popleft()

    def revise(self, step: int, time: float, beside: float) -> int | None:
        """The new number of steps where it has to change after `step`, else None.

        time: seconds of training so far; beside: seconds that validations, samples and checkpoints will still take.
        """
        if step in self.foretold:
            return self._turn(step, self.foretold[step])
        if self.seconds is None or step <= self.known or step >= self.steps:
            return None
        if len(self._recent) < FEWEST or sum(self._recent) < WINDOW * self.seconds:
            return None
        pace, left = median_low(self._recent), self.steps - step
        end, planned = time + left * pace + beside, self.turns[0][1]
        limit, goal = TOLERANCE["late" if left < LAST * planned else "usual"]
        if end > limit * self.until:
            wanted = self._fitting(step, time, beside, goal, pace)
            return self._turn(step, wanted) if wanted < self.steps else None
        if self.lengthens and self.steps < planned and end < EARLY[0] * self.until:
            return self._turn(step, min(planned, self._fitting(step, time, beside, EARLY[1], pace)))
        return None

    def _fitting(self, step: int, time: float, beside: float, goal: float, pace: float) -> int:
        return step + max(1, int((goal * self.until - time - beside) / pace))

    def _turn(self, step: int, steps: int) -> int | None:
        if steps == self.steps:
            return None
        self._recent.clear()
        self.turns.append((step, steps))
        return steps

    # ---- going on

    def state(self) -> list[list[int]]:
        """What `restore` needs, as JSON."""
        return [list(turn) for turn in self.turns]

    def restore(self, turns: list[list[int]]) -> None:
        """Goes on with the turns that a checkpoint keeps, unless the run was given a number of steps since."""
        if self.seconds is not None and turns and turns[0][1] == self.steps:
            self.turns = [(int(step), int(steps)) for step, steps in turns]

    def foretell(self, step: int, events: list[dict[str, Any]], reached: int) -> None:
        """Before the records of steps after `step` are dropped: what was decided there is decided again, without the clock."""
        if self.seconds is None:
            return
        self.foretold = {e["step"]: e["steps"] for e in events if e.get("kind") == "replan" and e["step"] > step}
        self.known = max(reached, *self.foretold, 0) if self.foretold else reached


class Milestones:
    """About `count` steps of a plan, dense at the beginning, and step 0: see `milestones`. They move with the plan."""

    def __init__(self, plan: StepPlan, count: int) -> None:
        self.plan, self.count = plan, count
        self._planned, self._steps = 0, [0]

    def _listed(self) -> list[int]:
        if self._planned != self.plan.steps:
            self._planned = self.plan.steps
            self._steps = [0, *milestones(self.plan.steps, self.count, early=True)]
        return self._steps

    def __contains__(self, step: object) -> bool:
        return self.count > 0 and step in self._listed()

    def left(self, step: int) -> int:
        """How many come after `step`."""
        return sum(other > step for other in self._listed()) if self.count else 0


class Every:
    """Every so many steps of a plan, step 0 not among them."""

    def __init__(self, plan: StepPlan, steps: int) -> None:
        self.plan, self.every = plan, steps

    def __contains__(self, step: object) -> bool:
        return isinstance(step, int) and step > 0 and step % self.every == 0

    def left(self, step: int) -> int:
        """How many come after `step`."""
        return self.plan.steps // self.every - step // self.every
