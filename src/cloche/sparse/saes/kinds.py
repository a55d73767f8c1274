"""The kinds of sparse autoencoder as values: which features may be active, how strongly, and what that costs.

A kind says nothing about how many features are active: that is one number, the l0, for all of them. Any kind may be `nested`
(Matryoshka, Bussmann et al. 2025, 2503.17547): so many leading features must reconstruct on their own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cloche.errors import SettingConflict, SettingRange
from cloche.part import Part, positive
from cloche.sparse.saes.choose import above, select_batch, select_topk
from cloche.sparse.saes.gathered import Choice, Chosen, Everything

_DENSE = 1 / 16  # share of active features above which plain products are faster than gathering


class Answer(NamedTuple):
    """What the features say to a batch, one amount a slot. `penalty` is summed over the batch; `rough`: a second code that
    must reconstruct too (Gated)."""

    values: Tensor
    penalty: Tensor | None = None
    rough: Tensor | None = None


@dataclass
class Memory:
    """What one batch tells the next, to save work: the `share` of features that counted, and the `least` answer that did."""

    share: float = 1.0
    least: float = 0.0


@dataclass(frozen=True)
class Question:
    """A batch before its features are chosen: answers will be centred @ weight.T + bias. `gather` joins the answers of all
    processes that share the batch, `world` of them."""

    centred: Tensor
    weight: Tensor
    bias: Tensor
    l0: float
    memory: Memory
    gather: Callable[[Tensor], Tensor] = lambda answers: answers
    world: int = 1


@dataclass(frozen=True, kw_only=True)
class Kind(Part, ABC):
    """A kind of autoencoder. This class is one whose features are active where their answer passes a threshold.

    One of your own is a frozen dataclass derived from it with `respond`; it trains, saves, loads and is named like these.
    """

    nested: tuple[int, ...] = ()
    thresholded: ClassVar[bool] = True  # a threshold, not a count, decides once trained
    renamed = {  # noqa: RUF012 (a ClassVar of Part)
        **{name.lower(): name for name in ("TopK", "BatchTopK", "ReLU", "Gated", "JumpReLU")},
        **{f"{name.lower()}-sae": name for name in ("TopK", "BatchTopK", "ReLU", "Gated", "JumpReLU")},
    }

    def check(self, features: int, l0: float) -> None:
        """Refuses an l0 that `features` features cannot have, and nested numbers that do not rise."""
        if not 0 < l0 <= features:
            raise SettingRange(
                f"An autoencoder of {features:,} features cannot have l0 = {l0:g} of them active: choose l0 above 0 and at "
                f"most {features:,}."
            )
        if any(not 0 < prefix < features for prefix in self.nested) or list(self.nested) != sorted(set(self.nested)):
            raise SettingRange(
                f"nested={self.nested} must rise, each between 1 and {features - 1:,}: how many leading features "
                "reconstruct alone."
            )

    def weights(self, features: int, width: int) -> dict[str, Tensor]:
        """The weights it has beside encoder and decoder, at their start: one a feature, or settings (single numbers)."""
        return {}

    def low(self, own: dict[str, Tensor]) -> Tensor | float:
        """What a feature's answer must pass for it to be active: one number, or one a feature."""
        return 0.0

    def choose(self, question: Question, own: dict[str, Tensor]) -> Chosen:
        """The features whose answers can matter to a batch in training."""
        if question.memory.share > _DENSE:
            return Everything(len(question.centred), len(question.weight))
        return above(question.centred, question.weight, question.bias, self.low(own))

    def active(self, question: Question, own: dict[str, Tensor], threshold: Tensor) -> Choice:
        """The features active once trained; `threshold` is added to each feature's own."""
        low = torch.clamp(self.low(own) + threshold, min=0.0)
        return above(question.centred, question.weight, question.bias, low)

    @abstractmethod
    def respond(self, pre: Tensor, own: dict[str, Tensor]) -> Answer:
        """The answer to a batch in training from the chosen slots of encoder x + bias; `own` are the slots' weights."""

    def magnitude(self, pre: Tensor, own: dict[str, Tensor]) -> Tensor:
        """How strongly an active feature speaks; zero or less of `pre` is silence."""
        return pre.relu()


@dataclass(frozen=True, kw_only=True)
class TopK(Kind):
    """The k strongest of each signal, k = l0: Gao et al. 2024 (2406.04093)."""

    thresholded: ClassVar[bool] = False

    def check(self, features: int, l0: float) -> None:
        super().check(features, l0)
        if l0 != int(l0):
            raise SettingConflict(
                f"A TopK keeps a whole number of features, and l0 = {l0:g} is none: round it, or take BatchTopK."
            )

    def choose(self, question: Question, own: dict[str, Tensor]) -> Choice:
        return select_topk(question.centred, question.weight, question.bias, int(question.l0))

    def active(self, question: Question, own: dict[str, Tensor], threshold: Tensor) -> Choice:
        return self.choose(question, own)

    def respond(self, pre: Tensor, own: dict[str, Tensor]) -> Answer:
        return Answer(pre.relu())


@dataclass(frozen=True, kw_only=True)
class BatchTopK(Kind):
    """The n * l0 strongest of a whole batch (Bussmann et al. 2024, 2412.06410); a threshold stands in for it afterwards."""

    def choose(self, question: Question, own: dict[str, Tensor]) -> Chosen:
        total = max(1, round(question.l0 * len(question.centred) * question.world))
        asked = question.centred, question.weight, question.bias
        choice, question.memory.least = select_batch(*asked, total, question.memory.least, question.gather)
        return choice

    def respond(self, pre: Tensor, own: dict[str, Tensor]) -> Answer:
        return Answer(pre.relu())


@dataclass(frozen=True, kw_only=True)
class ReLU(Kind):
    """values = relu(pre), sum of values penalised (Cunningham et al. 2023, 2309.08600; atoms are of norm one)."""

    def respond(self, pre: Tensor, own: dict[str, Tensor]) -> Answer:
        values = pre.relu()
        return Answer(values, values.sum())


@dataclass(frozen=True, kw_only=True)
class JumpReLU(Kind):
    """values = pre where pre > a threshold of the feature's own, learned through a window of width `bandwidth`; the number of
    active features is penalised itself (Rajamanoharan et al. 2024, 2407.14435).

    `bandwidth` is in root mean squares of a signal, sqrt(width) at the trained scale. The paper's 0.001 is for billions of
    signals; short runs need a wider window.
    """

    bandwidth: float = 0.03

    def __post_init__(self) -> None:
        positive(self, bandwidth=self.bandwidth)

    def weights(self, features: int, width: int) -> dict[str, Tensor]:
        window = self.bandwidth * width**0.5
        return {"log_threshold": torch.full((features,), window).log(), "window": torch.tensor(window)}

    def low(self, own: dict[str, Tensor]) -> Tensor:
        return own["log_threshold"].exp()

    def choose(self, question: Question, own: dict[str, Tensor]) -> Chosen:
        if question.memory.share > _DENSE:
            return Everything(len(question.centred), len(question.weight))
        reach = self.low(own) - own["window"] / 2  # answers below the threshold and within the window teach it
        return above(question.centred, question.weight, question.bias, reach)

    def respond(self, pre: Tensor, own: dict[str, Tensor]) -> Answer:
        threshold, window = own["log_threshold"].exp(), float(own["window"])
        return Answer(_Jump.apply(pre, threshold, window), _Step.apply(pre, threshold, window).sum())


@dataclass(frozen=True, kw_only=True)
class Gated(Kind):
    """A gate decides which features are active and a rescaled copy of it how strongly, so the penalty on the gate does not
    shrink the values (Rajamanoharan et al. 2024, 2404.16014)."""

    def weights(self, features: int, width: int) -> dict[str, Tensor]:
        return {"log_gain": torch.zeros(features), "gate_bias": torch.zeros(features)}

    def low(self, own: dict[str, Tensor]) -> Tensor:
        return -own["gate_bias"]

    def respond(self, pre: Tensor, own: dict[str, Tensor]) -> Answer:
        gate = pre + own["gate_bias"]
        rough = gate.relu()
        return Answer(self.magnitude(pre, own) * (gate > 0), rough.sum(), rough)

    def magnitude(self, pre: Tensor, own: dict[str, Tensor]) -> Tensor:
        return (pre * own["log_gain"].exp()).relu()


TOPK = TopK()


def _in_window(pre: Tensor, threshold: Tensor, window: float) -> Tensor:
    return ((pre - threshold).abs() < window / 2).to(pre.dtype)


class _Jump(torch.autograd.Function):
    """pre where pre > threshold; the threshold's gradient is -threshold / window inside the window around it."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, window: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.window = window
        return pre * (pre > threshold)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        near = _in_window(pre, threshold, ctx.window)
        return grad * (pre > threshold), -(grad * near) * threshold / ctx.window, None


class _Step(torch.autograd.Function):
    """1 where pre > threshold; the threshold's gradient is -1 / window inside the window around it, pre's is none."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, window: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.window = window
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        return None, -(grad * _in_window(pre, threshold, ctx.window)) / ctx.window, None
