"""Remedies of the optimiser: its rates, its schedule, its decay."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from cloche.diagnose.proving.remedy import Remedy, rebuild_optimizer
from cloche.part import positive, within
from cloche.train import Group, Schedule, Trainer

RISING = 1.1  # times the rate at a checkpoint: it goes on rising
NAMES = {0.5: "half the rate", 0.1: "a tenth of the rate"}


@dataclass(frozen=True)
class LowerRate(Remedy):
    """Every learning rate times `factor`.

    >>> from cloche.diagnose import LowerRate
    >>> LowerRate().phrase, LowerRate(0.25).phrase
    ('at half the rate', 'at 0.25 times the rate')
    """

    factor: float = 0.5

    def __post_init__(self) -> None:
        positive(self, factor=self.factor)

    @property
    def phrase(self) -> str:
        return f"at {NAMES.get(self.factor, f'{self.factor:g} times the rate')}"

    def apply(self, trainer: Trainer) -> str:
        trainer.optimizer.peaks = [self.factor * peak for peak in trainer.optimizer.peaks]
        return ""


@dataclass(frozen=True)
class WarmUp(Remedy):
    """The rate rises from near zero over this share of the steps: at step 0 as the schedule's own warm-up, later as a ramp
    that the schedule is multiplied by.

    >>> from cloche.diagnose import WarmUp
    >>> WarmUp().phrase
    'with a warm-up of 10% of the steps'
    """

    share: float = 0.1

    def __post_init__(self) -> None:
        within(self, share=(0, 1))

    @property
    def phrase(self) -> str:
        return f"with a warm-up of {self.share:.0%} of the steps"

    def applies(self, trainer: Trainer) -> bool:
        return trainer.step > 0 or trainer.plan.schedule.warmup < self.share

    def apply(self, trainer: Trainer) -> str:
        plan = trainer.plan
        if trainer.step == 0:
            plan.schedule = dataclasses.replace(plan.schedule, warmup=self.share)
        else:
            begin, over = plan.progress(trainer.step), max(1.0, self.share * plan.turns[0][1])
            plan.schedule = _Ramped(
                plan.schedule.warmup, plan.schedule.final, inner=plan.schedule, begin=begin, over=over
            )
        return ""


@dataclass(frozen=True)
class _Ramped(Schedule):
    """A schedule times a ramp from zero to one."""

    inner: Schedule = field(kw_only=True)
    begin: float = field(kw_only=True)
    over: float = field(kw_only=True)

    def rate(self, step: float, steps: int) -> float:
        return self.inner.rate(step, steps) * min(1.0, (step - self.begin + 1) / self.over)

    def batches(self, step: float, steps: int) -> int:
        return self.inner.batches(step, steps)

    def after(self, step: float, rising: int, steps: int) -> float:
        return self.inner.after(step, rising, steps)


@dataclass(frozen=True)
class HeldRate(Remedy):
    """A rate that goes on rising is held where it is at the checkpoint.

    >>> from cloche.diagnose import HeldRate
    >>> HeldRate().phrase
    'with the rate held'
    """

    @property
    def phrase(self) -> str:
        return "with the rate held"

    def applies(self, trainer: Trainer) -> bool:
        plan, step = trainer.plan, trainer.step
        return step > 0 and any(plan.rate(later) > RISING * plan.rate(step - 1) for later in range(step, plan.steps))

    def apply(self, trainer: Trainer) -> str:
        plan = trainer.plan
        before, most = plan.schedule, plan.rate(trainer.step - 1)
        plan.schedule = _Capped(before.warmup, before.final, inner=before, most=most)
        return f"at {max(trainer.optimizer.peaks) * most:.3g}"


@dataclass(frozen=True)
class _Capped(Schedule):
    """A schedule that is never above `most`."""

    inner: Schedule = field(kw_only=True)
    most: float = field(kw_only=True)

    def rate(self, step: float, steps: int) -> float:
        return min(self.most, self.inner.rate(step, steps))

    def batches(self, step: float, steps: int) -> int:
        return self.inner.batches(step, steps)

    def after(self, step: float, rising: int, steps: int) -> float:
        return self.inner.after(step, rising, steps)


@dataclass(frozen=True)
class WithoutDecay(Remedy):
    """No weight decay in any group.

    >>> from cloche.diagnose import WithoutDecay
    >>> WithoutDecay().phrase
    'without weight decay'
    """

    @property
    def phrase(self) -> str:
        return "without weight decay"

    def applies(self, trainer: Trainer) -> bool:
        return any(group.get("weight_decay") for group in trainer.optimizer.groups)

    def apply(self, trainer: Trainer) -> str:
        for group in trainer.optimizer.groups:
            if "weight_decay" in group:
                group["weight_decay"] = 0.0
        return ""


@dataclass(frozen=True)
class TrainAll(Remedy):
    """Parameters whose rate is zero are trained, at the rate of the others.

    >>> from cloche.diagnose import TrainAll
    >>> TrainAll().phrase
    'with the frozen layers trained'
    """

    @property
    def phrase(self) -> str:
        return "with the frozen layers trained"

    def applies(self, trainer: Trainer) -> bool:
        return any(_frozen(group) for group in trainer.recipe.optimizer.groups)

    def apply(self, trainer: Trainer) -> str:
        part = trainer.recipe.optimizer
        groups = tuple(group for group in part.groups if not _frozen(group))
        rebuild_optimizer(trainer, dataclasses.replace(part, groups=groups))
        return ""


def _frozen(group: Group) -> bool:
    return group.lr == 0 or group.scale == 0
