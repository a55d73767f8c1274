"""The kinds of sparse autoencoder as values: what decides that a feature is active, how strongly, and what that costs.

Every kind answers with three things for the centred signals x: `score` (a feature is active where it is above zero, or above
the autoencoder's calibrated threshold once trained), `values` [n, N] with their zeros, and a penalty to be weighed so that the
wanted number of features is active.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Answer(NamedTuple):
    """What the features say to a batch while training. `rough` [n, N]: a second code that must reconstruct too (Gated)."""

    values: Tensor
    penalty: Tensor | None = None
    rough: Tensor | None = None


@dataclass(frozen=True)
class Kind(ABC):
    """A kind of autoencoder; subclasses say which extra weights it has and how its features answer."""

    @property
    def name(self) -> str:
        return f"{type(self).__name__.lower()}-sae"

    def weights(self, features: int, width: int) -> dict[str, Tensor]:
        """The weights it has beside encoder and decoder, at their start."""
        return {}

    @abstractmethod
    def train(self, pre: Tensor, weights: dict[str, Tensor], l0: float) -> Answer:
        """The answer to a batch from `pre` [n, N] = encoder x + its bias."""

    def score(self, pre: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(score, magnitude), each [n, N], of a trained autoencoder: values are the magnitude where score > threshold."""
        return pre, pre.relu()


@dataclass(frozen=True)
class ReLU(Kind):
    """values = relu(pre), sum of values penalised (Cunningham et al. 2023, 2309.08600; atoms are of norm one)."""

    def train(self, pre: Tensor, weights: dict[str, Tensor], l0: float) -> Answer:
        values = pre.relu()
        return Answer(values, values.sum(1).mean())


@dataclass(frozen=True)
class BatchTopK(Kind):
    """The n * l0 strongest of a whole batch (Bussmann et al. 2024, 2412.06410); a threshold stands in for it afterwards."""

    def train(self, pre: Tensor, weights: dict[str, Tensor], l0: float) -> Answer:
        values = pre.relu()
        keep = min(round(l0 * len(pre)), values.numel())
        least = values.detach().flatten().topk(keep, sorted=False).values.min()
        return Answer(values * (values >= least.clamp_min(1e-12)))


@dataclass(frozen=True)
class JumpReLU(Kind):
    """values = pre where pre > a threshold of the feature's own, learned through a window of width `bandwidth`; the number of
    active features is penalised itself (Rajamanoharan et al. 2024, 2407.14435).

    `bandwidth` is in root mean squares of a signal, sqrt(width) at the trained scale. The paper's 0.001 is for billions of
    signals; short runs need a wider window.
    """

    bandwidth: float = 0.03

    def weights(self, features: int, width: int) -> dict[str, Tensor]:
        window = self.bandwidth * width**0.5
        return {"log_threshold": torch.full((features,), window).log(), "window": torch.tensor(window)}

    def train(self, pre: Tensor, weights: dict[str, Tensor], l0: float) -> Answer:
        threshold, window = weights["log_threshold"].exp(), float(weights["window"])
        values = _Jump.apply(pre, threshold, window)
        return Answer(values, _Step.apply(pre, threshold, window).sum(1).mean())

    def score(self, pre: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return pre - weights["log_threshold"].exp(), pre.relu()


@dataclass(frozen=True)
class Gated(Kind):
    """A gate decides which features are active and a rescaled copy of it how strongly, so the penalty on the gate does not
    shrink the values (Rajamanoharan et al. 2024, 2404.16014)."""

    def weights(self, features: int, width: int) -> dict[str, Tensor]:
        return {"log_gain": torch.zeros(features), "gate_bias": torch.zeros(features)}

    def train(self, pre: Tensor, weights: dict[str, Tensor], l0: float) -> Answer:
        gate, magnitude = self.score(pre, weights)
        rough = gate.relu()
        return Answer(magnitude * (gate > 0), rough.sum(1).mean(), rough)

    def score(self, pre: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return pre + weights["gate_bias"], (pre * weights["log_gain"].exp()).relu()


KINDS: dict[str, type[Kind]] = {kind().name: kind for kind in (ReLU, BatchTopK, JumpReLU, Gated)}


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
        return grad * (pre > threshold), -(grad * near).sum(0) * threshold / ctx.window, None


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
        return None, -(grad * _in_window(pre, threshold, ctx.window)).sum(0) / ctx.window, None
