"""The known causes of failed runs, each with the evidence for it as a ratio of what was measured to a threshold.

An evidence is 1 / (1 + (threshold / measured)^slope): a half at the threshold, and near 1 beyond it. A cause's strength is the
product of its evidences (at most three), times its weight: all of them are needed. What they leave, the product of
1 - strength, is no fault as far as nothing went wrong (1 - the support of that), and else a cause that is not known.
Confidences are these strengths over their sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from cloche.diagnose.why.constants import CONSTANTS, Constant
from cloche.diagnose.why.facts import Facts

NONE, UNNAMED = "none", "unknown"  # no fault, and one that is not among these
FEW = 20  # steps in which nothing need be learned yet
UNKNOWN = 0.2  # an evidence that could not be measured
SMALLER = 5.0  # times the factor at which weights are too large: that at which they are too small
LEAST, MOST = 1e-6, 1e9  # of a measured value

Measured = Callable[[Facts], float | None]


class Evidence(NamedTuple):
    """One evidence for a cause: what was measured, its threshold, how far that speaks for the cause (0 to 1), and in words."""

    name: str
    value: float | None
    threshold: float
    support: float
    says: str


@dataclass(frozen=True)
class Question:
    """What is asked of the facts: is `measured` above (or below) the threshold of that `name` in `CONSTANTS`? `says` it in
    words, with {value}."""

    name: str
    measured: Measured
    says: str | Callable[[Facts], str]
    below: bool = False

    def support(self, value: float | None, constants: Mapping[str, Constant] = CONSTANTS) -> float:
        """How far a measured value speaks for the cause, from 0 to 1."""
        if value is None or math.isnan(value):
            return UNKNOWN
        threshold, slope = constants[self.name]
        distance = slope * math.log(min(max(value, LEAST), MOST) / threshold) * (-1 if self.below else 1)
        return 1 / (1 + math.exp(-min(max(distance, -40.0), 40.0)))

    def answer(self, facts: Facts) -> Evidence:
        value, threshold = self.measured(facts), CONSTANTS[self.name].threshold
        if value is None or math.isnan(value):
            return Evidence(self.name, None, threshold, UNKNOWN, f"not measured: {self.name}")
        says = (
            self.says.format(value=shown(value), percent=f"{value:.0%}")
            if isinstance(self.says, str)
            else self.says(facts)
        )
        return Evidence(self.name, value, threshold, self.support(value), says)


@dataclass(frozen=True)
class Cause:
    """A known cause: its `title` in words, the questions whose answers speak for it, and what would fix it."""

    name: str
    title: str
    questions: tuple[Question, ...]
    fix: str


class Verdict(NamedTuple):
    """A cause with its confidence, and the evidence for it."""

    cause: Cause
    confidence: float
    evidence: tuple[Evidence, ...]


def judge(facts: Facts) -> tuple[list[Verdict], float]:
    """All causes, the most likely first, and the confidence that there is no fault."""
    found = confidences(values_of(facts))
    verdicts = [Verdict(c, found[c.name], tuple(question.answer(facts) for question in c.questions)) for c in CAUSES]
    return sorted(verdicts, key=lambda verdict: -verdict.confidence), found[NONE]


def values_of(facts: Facts) -> dict[str, float | None]:
    """What was measured for each question."""
    return {question.name: question.measured(facts) for cause in CAUSES for question in cause.questions}


def confidences(values: Mapping[str, float | None], constants: Mapping[str, Constant] = CONSTANTS) -> dict[str, float]:
    """The confidence in each cause, in none and in an unknown one, from what was measured; they sum to 1. A cause of whose
    evidence nothing could be measured is left out."""
    strengths = {
        cause.name: constants[f"weight {cause.name}"].threshold
        * math.prod(question.support(values[question.name], constants) for question in cause.questions)
        * any(values[question.name] is not None for question in cause.questions)
        for cause in CAUSES
    }
    rest, harmed = math.prod(1 - each for each in strengths.values()), HARM.support(values[HARM.name], constants)
    strengths |= {NONE: rest * (1 - harmed), UNNAMED: rest * harmed}
    total = sum(strengths.values())
    return {name: strength / total for name, strength in strengths.items()}


def shown(value: float) -> str:
    """A number in a sentence."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


# ---- what is measured


def harm(facts: Facts) -> float:
    """How badly a run went, 1 at the limit: the largest of that it diverged (3), the share of what it had learned that it lost
    again (over 0.2), its highest early loss (nats over 1; only where the loss is of each next token, since that of a few hidden
    ones jumps by chance), and, of a run that is over, how far it is behind (over 0.85)."""
    course = facts.course
    if course.diverged is not None:
        return 3.0
    found = [course.rise / 0.2, course.early if facts.in_nats else 0.0, (behind(facts) or 0.0) / 0.85]
    return max(0.0, *(value for value in found if math.isfinite(value)))


def setback(facts: Facts) -> float:
    """`harm`, or what was left of a sudden rise of the loss 20 steps later (nats over 0.7)."""
    return max(harm(facts), facts.course.jump * facts.course.left / 0.7)


def went_wrong(facts: Facts) -> str:
    """`harm` in words."""
    course = facts.course
    if course.diverged is not None:
        return f"the loss diverged at step {course.diverged:,}"
    if course.rise > 0.2:
        return f"the loss ended at {shown(course.last)} nats per token, after {shown(course.best)}"
    if course.jumped is not None and course.jump * course.left > 0.7:
        return (
            f"the loss rose by {shown(course.jump)} nats at step {course.jumped:,}, and {course.left:.0%} of it stayed"
        )
    if course.early > 1:
        return f"the loss rose by {shown(course.early)} nats in the first steps"
    if facts.text is None or not facts.in_nats:
        return f"the loss ended at {shown(course.last)} nats per token"
    counts = f"{shown(facts.text.unigram)}, and of pairs of tokens {shown(facts.text.bigram)}"
    return f"the loss ended at {shown(course.last)} nats per token, where counts of tokens give {counts}"


def behind(facts: Facts) -> float | None:
    """1 minus how far the loss came from counts of tokens to counts of pairs, for runs that are over and had steps to learn."""
    if facts.progress is None or not facts.history.ended or facts.history.steps < FEW:
        return None
    return max(0.0, 1 - facts.progress)


def _of(name: str, field: str, low: float = 0.0) -> Measured:
    """A field of one of the groups of facts, plus `low`."""

    def measured(facts: Facts) -> float | None:
        group = getattr(facts, name)
        value = None if group is None else getattr(group, field)
        return None if value is None else low + value

    return measured


def unnormalised(facts: Facts) -> float | None:
    return None if facts.start is None else 1 - facts.start.normed


def misscaled(facts: Facts) -> float | None:
    """By what factor the matrices started larger than nominal; smaller ones count from a tenth on (GPT-2's are a sixth)."""
    scale = facts.weights.scale
    return None if not scale else max(scale, 1 / (SMALLER * scale))


def scaled(facts: Facts) -> str:
    """`misscaled` in words."""
    return f"the matrices started {shown(facts.weights.scale or 0.0)} times as large as nominal"


def louder(facts: Facts) -> float | None:
    """How large the matrices that write to the stream started, over nominal, and over the others if these are larger too."""
    scale, over = facts.weights.scale, facts.weights.branches
    return None if scale is None or over is None else over * min(scale, 1.0)


def sharper(facts: Facts) -> float | None:
    """The factor of attention scores, without that of weights which are all too large."""
    return None if facts.start is None else facts.start.scores / max(facts.weights.scale or 1.0, 1.0) ** 2


HARM = Question("harm", harm, went_wrong)
HURT = Question("hurt", harm, went_wrong)  # with a lower threshold
PACE = "updates were {value} times the optimiser's limit"
RATE = "the rate is {value} times the optimiser's default"

CAUSES = (
    Cause(
        "rate",
        "the learning rate is too high",
        (
            HARM,
            Question("pace", _of("rates", "pace"), PACE),
            Question("rate above default", _of("rates", "rate"), RATE),
        ),
        "lower optimizer.lr",
    ),
    Cause(
        "rate_low",
        "the learning rate is too low",
        (
            Question("slow", _of("rates", "calm"), PACE, below=True),
            Question("rate below default", _of("rates", "rate"), RATE, below=True),
            Question("behind", behind, "{percent} of the way from counts of tokens to counts of pairs is left"),
        ),
        "raise optimizer.lr",
    ),
    Cause(
        "warmup",
        "the rate needs a warm-up and has none",
        (
            Question("no warm-up", _of("rates", "warmup", 1), "the peak rate came at update {value}", below=True),
            Question("rush", _of("rates", "rush"), "the first updates were {value} times the optimiser's limit"),
            HURT,
        ),
        "set schedule.warmup to 0.05",
    ),
    Cause(
        "norm",
        "its layers have no normalisation",
        (
            HARM,
            Question("not normalised", unnormalised, "{percent} of the layers work on values that are not normalised"),
        ),
        'set model.body.block.norm = "RMSNorm"',
    ),
    Cause(
        "initialisation",
        "the weights started at a wrong scale",
        (Question("large", misscaled, scaled), HURT),
        'set initialisation = "FanIn"',
    ),
    Cause(
        "batch",
        "one or a few bad batches",
        (
            Question("unlike", _of("text", "above"), "a batch there is {value} nats per token unlike earlier ones"),
            Question("passing", _of("text", "tail", 1e-3), "the last ones are {value}", below=True),
            Question("setback", setback, went_wrong),
        ),
        "leave the batch out",
    ),
    Cause(
        "poison",
        "bad data from some step on",
        (
            Question("lasting", _of("text", "tail"), "the last batches are {value} nats per token unlike earlier ones"),
            Question(
                "noise",
                _of("text", "learnable"),
                "a token says {value} times as much of the next one there as it did before",
                below=True,
            ),
        ),
        "remove the bad data",
    ),
    Cause(
        "precision",
        "weights are kept in too few bits",
        (Question("bits", _of("weights", "bits"), "the weights use {value} bits of mantissa of 24", below=True),),
        "keep the weights in float32",
    ),
    Cause(
        "branch",
        "residual branches are scaled up",
        (
            Question(
                "louder",
                louder,
                "the matrices that write to the stream started {value} times as large as nominal",
            ),
            Question("nominal", _of("weights", "scale"), "the others {value} times", below=True),
            HURT,
        ),
        "scale the output of branches down",
    ),
    Cause(
        "attention",
        "attention scores are scaled up",
        (
            Question("sharper", sharper, "attention scores start {value} times as large as nominal"),
            Question(
                "peaked", _of("start", "entropy"), "attention starts with {percent} of its largest entropy", below=True
            ),
        ),
        "leave the scale of the scores out",
    ),
    Cause(
        "decay",
        "weight decay is too strong",
        (
            Question("decayed", _of("rates", "decay"), "decay alone shrinks the weights by {value} e-foldings"),
            Question(
                "shrunk", _of("weights", "grown"), "the weights ended {value} times as large as at first", below=True
            ),
        ),
        "lower optimizer.weight_decay",
    ),
    Cause(
        "overfitting",
        "there is too little text",
        (
            Question("repeated", _of("text", "epochs"), "the text was read {value} times"),
            Question("gap", _of("rates", "gap"), "held-out text is {value} nats worse than the batches"),
        ),
        "give more text, or fewer steps",
    ),
    Cause(
        "frozen",
        "some layers are not trained",
        (
            Question("still", _of("weights", "still"), "{percent} of the parts never changed"),
            Question(
                "whole",
                _of("weights", "bits"),
                "not because of rounding: the weights use {value} of 24 bits of mantissa",
            ),
        ),
        "train all layers",
    ),
)
