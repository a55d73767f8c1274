"""Rules of early warning that others have published, behind one face: the first step of a trace at which each of them fires.

The rules of the packages trainscope and losslint are called in those packages, which must be installed (`python -m
bench.setup early_warning`). The others are written from their definitions, each named in its docstring. Constants default to
what the source says; `space` is where they may lie when they are tuned.

A rule sees one step after the other. Only its first alarm counts, so what it does to its own statistics after an alarm (a
clipped norm, a cleared sum) does not matter here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from bench.diagnose.traces import Floats, Trace
from bench.diagnose.tuning import Range

TO_SIGMA = 1.4826  # median absolute deviation -> standard deviation of a normal distribution
TINY = 1e-12
Space = Mapping[str, Range]
WINDOW, LEAST = Range(16, 128, whole=True), Range(8, 40, whole=True)


class Rule(ABC):
    """A frozen dataclass of constants. name: as the table has it; source: whose it is."""

    name: ClassVar[str]
    source: ClassVar[str]
    space: ClassVar[Space] = {}

    @abstractmethod
    def first(self, trace: Trace) -> int | None:
        """The first step at which it fires."""


@dataclass(frozen=True)
class Threshold(Rule):
    """Fires where its score exceeds the threshold."""

    threshold: float = 1.0

    @abstractmethod
    def scores(self, trace: Trace) -> Floats:
        """[step]; nan or -inf where too little was seen before."""

    def first(self, trace: Trace) -> int | None:
        with np.errstate(invalid="ignore", divide="ignore"):
            above = self.scores(trace) > self.threshold
        return int(above.argmax()) + 1 if above.any() else None


def windows(values: Floats, size: int, least: int) -> list[tuple[slice, Floats]]:
    """The values before each step: slices of steps and [step in the slice, value], the last `size`, or at least `least`."""
    early = [(slice(t, t + 1), values[None, :t]) for t in range(least, min(size, len(values)))]
    whole = sliding_window_view(values, size)[:-1] if len(values) > size else np.empty((0, size))
    return [*early, (slice(size, None), whole)] if len(whole) else early


def over_median(values: Floats, size: int, least: int) -> Floats:
    """Multiples of the median of the values before."""
    scores = np.full(len(values), -np.inf)
    for steps, before in windows(values, size, least):
        scores[steps] = values[steps] / np.maximum(np.median(before, axis=1), TINY)
    return scores


def robust_sigmas(values: Floats, size: int, least: int) -> Floats:
    """Robust standard deviations above the median of the values before."""
    scores = np.full(len(values), -np.inf)
    for steps, before in windows(values, size, least):
        middle = np.median(before, axis=1)
        spread = TO_SIGMA * np.median(np.abs(before - middle[:, None]), axis=1)
        scores[steps] = (values[steps] - middle) / np.maximum(spread, TINY)
    return scores


def sigmas(values: Floats, size: int, least: int) -> Floats:
    """Standard deviations above the mean of the values before."""
    scores = np.full(len(values), -np.inf)
    for steps, before in windows(values, size, least):
        scores[steps] = (values[steps] - before.mean(1)) / np.maximum(before.std(1), 1e-10)
    return scores


# ---- naive rules


@dataclass(frozen=True)
class LossAboveMedian(Threshold):
    """The loss is `threshold` robust standard deviations above the median of the losses before."""

    name, source = "loss above median", "naive"
    space: ClassVar[Space] = {"threshold": Range(2, 30), "window": WINDOW, "least": LEAST}

    threshold: float = 5.0
    window: int = 50
    least: int = 20

    def scores(self, trace: Trace) -> Floats:
        return robust_sigmas(trace.loss, self.window, self.least)


@dataclass(frozen=True)
class GradientAboveMedian(Threshold):
    """The norm of the gradient is `threshold` times its median."""

    name, source = "gradient 3 x median", "naive"
    space: ClassVar[Space] = {"threshold": Range(1.2, 30), "window": WINDOW, "least": LEAST}

    threshold: float = 3.0
    window: int = 50
    least: int = 20

    def scores(self, trace: Trace) -> Floats:
        return over_median(trace.grad_norm, self.window, self.least)


# ---- published rules


@dataclass(frozen=True)
class UpdateDoubles(Threshold):
    """Marin: spikes of Adam's update norm to twice its level come before those of the loss (marin-community/marin issue 1368).
    The issue does not say how the level is taken; here it is the median of the norms before."""

    name, source = "Marin: update norm 2 x", "marin-community/marin#1368"
    space: ClassVar[Space] = {"threshold": Range(1.05, 10), "window": WINDOW, "least": LEAST}

    threshold: float = 2.0
    window: int = 50
    least: int = 20

    def scores(self, trace: Trace) -> Floats:
        return over_median(trace.update_norm, self.window, self.least)


@dataclass(frozen=True)
class UpdateSigmas(Threshold):
    """Marin's clipping of updates as a rule: the update norm is 2 standard deviations above the mean of the last 128, once
    there are half as many (settings: Marin 32B retrospective; rule: Levanter's clip_update_norm)."""

    name, source = "Marin: update clipping", "Marin 32B retrospective, Levanter"
    space: ClassVar[Space] = {"threshold": Range(1, 30), "window": Range(16, 128, whole=True)}

    threshold: float = 2.0
    window: int = 128

    def scores(self, trace: Trace) -> Floats:
        return sigmas(trace.update_norm, self.window, self.window // 2)


@dataclass(frozen=True)
class SpikeScore(Threshold):
    """OLMo-core's StabilityMonitorCallback: loss or gradient norm is 6 standard deviations above the mean of the last 128
    values, once there are so many; its SpikeScore is the share of such steps, and the first of them is the alarm."""

    name, source = "OLMo-core: SpikeScore", "allenai/OLMo-core fa6c501, train/callbacks/stability_monitor.py"
    space: ClassVar[Space] = {"threshold": Range(2, 30), "window": Range(16, 128, whole=True)}

    threshold: float = 6.0
    window: int = 128

    def scores(self, trace: Trace) -> Floats:
        return np.fmax(*(sigmas(x, self.window, self.window) for x in (trace.loss, trace.grad_norm)))


@dataclass(frozen=True)
class ZClip(Threshold):
    """ZClip (Kumar et al. 2025, arXiv 2504.02507): the z-score of the gradient norm by exponential averages of its mean and
    variance, which begin with those of 25 steps of warm-up, is above 2.5."""

    name, source = "ZClip", "arXiv 2504.02507"
    space: ClassVar[Space] = {
        "threshold": Range(1.5, 60),
        "alpha": Range(0.8, 0.99),
        "warmup": Range(10, 40, whole=True),
    }

    threshold: float = 2.5
    alpha: float = 0.97
    warmup: int = 25

    def scores(self, trace: Trace) -> Floats:
        norms, scores = trace.grad_norm, np.full(len(trace), -np.inf)
        mean, variance = norms[: self.warmup].mean(), norms[: self.warmup].var()
        for t in range(self.warmup, len(norms)):
            scores[t] = (norms[t] - mean) / (variance**0.5 + 1e-6)
            mean = self.alpha * mean + (1 - self.alpha) * norms[t]
            variance = self.alpha * variance + (1 - self.alpha) * (norms[t] - mean) ** 2
        return scores


@dataclass(frozen=True)
class AdaGC(Threshold):
    """AdaGC (Wang et al. 2025, arXiv 2502.11034) as a rule: the gradient norm of a part is 1.05 times the exponential average
    of its past ones, which begins with the least of 100 steps of warm-up, clipped to 1 as a whole. It means to clip often;
    the paper takes it by tensor, and the log has parts."""

    name, source = "AdaGC", "arXiv 2502.11034"
    space: ClassVar[Space] = {
        "threshold": Range(1.05, 60),
        "beta": Range(0.9, 0.995),
        "warmup": Range(10, 100, whole=True),
    }

    threshold: float = 1.05
    beta: float = 0.98
    warmup: int = 100

    def scores(self, trace: Trace) -> Floats:
        scores = np.full(len(trace), -np.inf)
        if len(trace) <= self.warmup:
            return scores
        early = slice(0, self.warmup)
        clipped = trace.grad_norms[early] * np.minimum(1, 1 / np.maximum(trace.grad_norm[early], TINY))[:, None]
        usual = np.nanmin(clipped, axis=0)
        for t in range(self.warmup, len(trace)):
            norms = trace.grad_norms[t]
            scores[t] = (norms / np.maximum(usual, TINY)).max()
            usual = self.beta * usual + (1 - self.beta) * norms
        return scores


# ---- packages


@dataclass(frozen=True)
class Cusum(Rule):
    """trainscope's default detector of the loss, called as TrainScope.step does. upward: only alarms of a loss that rises
    count; as it ships, a loss that falls fast is a change point too."""

    name, source = "trainscope: CUSUM", "trainscope 1.8.1"
    space: ClassVar[Space] = {
        "threshold": Range(2, 200),
        "slack": Range(0.25, 4),
        "window": Range(16, 200, whole=True),
        "min_observations": Range(8, 40, whole=True),
    }

    threshold: float = 6.0
    slack: float = 1.0
    window: int = 200
    min_observations: int = 30
    upward: bool = False

    def first(self, trace: Trace) -> int | None:
        from trainscope.core.detectors import make_detector

        constants = {name: getattr(self, name) for name in self.space}
        detector = make_detector({"name": "changepoint", **constants})
        for step, loss in enumerate(trace.loss.tolist(), 1):
            score = detector.update(loss) if np.isfinite(loss) else None
            if score is not None and (score > 0 or not self.upward):
                return step
        return None


@dataclass(frozen=True)
class UpwardCusum(Cusum):
    name = "trainscope: CUSUM, rises only"
    upward: bool = True


@dataclass(frozen=True)
class ZScore(Rule):
    """trainscope's z-score detector of the loss."""

    name, source = "trainscope: z-score", "trainscope 1.8.1"
    space: ClassVar[Space] = {
        "threshold": Range(2, 30),
        "window": Range(16, 200, whole=True),
        "min_observations": LEAST,
    }

    threshold: float = 3.5
    window: int = 200
    min_observations: int = 30

    def first(self, trace: Trace) -> int | None:
        from trainscope.core.detectors import make_detector

        detector = make_detector({"name": "z_score", **{name: getattr(self, name) for name in self.space}})
        for step, loss in enumerate(trace.loss.tolist(), 1):
            if np.isfinite(loss) and detector.update(loss) is not None:
                return step
        return None


@dataclass(frozen=True)
class Crossing(Rule):
    """trainscope's rule for early signals, as its report has it for gradient norms: three values in a row more than 3 robust
    standard deviations above the median of the first 40. It can be told at the third, so that is the alarm. No constants."""

    name, source = "trainscope: gradient crossing", "trainscope 1.8.1"

    def first(self, trace: Trace) -> int | None:
        from trainscope.analysis import first_crossing_step

        begin = first_crossing_step(trace.grad_norm.tolist())
        return None if begin is None else begin + 1 + 2


@dataclass(frozen=True)
class Losslint(Rule):
    """losslint's checks on the log as it grows, as `losslint watch` runs them: the first finding of a warning or worse. Of the
    others one is of steps that go back, and two only inform."""

    name, source = "losslint", "losslint 0.4.1"
    space: ClassVar[Space] = {
        "spike_factor": Range(1.1, 20),
        "spike_window": Range(8, 50, whole=True),
        "divergence_ratio": Range(1.01, 2),
        "divergence_min_points": Range(8, 40, whole=True),
    }

    spike_factor: float = 10.0
    spike_window: int = 25
    divergence_ratio: float = 1.25
    divergence_min_points: int = 20

    def first(self, trace: Trace) -> int | None:
        from losslint.checks import CheckOptions, check_divergence, check_loss_spike, check_nan_inf
        from losslint.parsing import RunLog

        options = CheckOptions(**{name: getattr(self, name) for name in self.space})
        series: dict[str, list[float]] = {"loss": [], "grad_norm": []}
        log = RunLog([], series, Path("log.jsonl"))
        for step in range(1, len(trace) + 1):
            log.steps.append(step)
            series["loss"].append(float(trace.loss[step - 1]))
            series["grad_norm"].append(float(trace.grad_norm[step - 1]))
            if any(check(log, options) for check in (check_nan_inf, check_loss_spike, check_divergence)):
                return step
        return None


OURSELVES: list[type[Rule]] = [LossAboveMedian, GradientAboveMedian]
PUBLISHED: list[type[Rule]] = [UpdateDoubles, UpdateSigmas, SpikeScore, ZClip, AdaGC]
TRAINSCOPE: list[type[Rule]] = [Cusum, UpwardCusum, ZScore, Crossing]
LOSSLINT: list[type[Rule]] = [Losslint]
