"""Kinds of sparse autoencoder: which features may be active, how strongly, and which penalty that incurs.

How many features are active is not part of a kind: it is one number for all of them, the l0. Any kind may be `nested`
(Matryoshka, Bussmann et al. 2025, 2503.17547): each of these numbers of leading features must reconstruct on its own.
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
from cloche.sparse.saes.gathered import AllFeatures, Choice, Chosen

_DENSE = 1 / 16  # share of active features above which plain products are faster than gathering


class FeatureActs(NamedTuple):
    """Feature activations of a batch, one value per slot. `penalty` is summed over the batch; `gate_acts` are a
    second code that must reconstruct as well (Gated).

    >>> import torch
    >>> from cloche.sparse.saes import FeatureActs, ReLU
    >>> acts = ReLU().activate(torch.tensor([[-1.0, 0.5, 2.0]]), {})
    >>> isinstance(acts, FeatureActs), acts.values.tolist(), float(acts.penalty)
    (True, [[0.0, 0.5, 2.0]], 2.5)
    """

    values: Tensor
    penalty: Tensor | None = None
    gate_acts: Tensor | None = None


@dataclass
class BatchStats:
    """Statistics of one batch that save work on the next: the `share` of features that were active, and the `least`
    pre-activation selected."""

    share: float = 1.0
    least: float = 0.0


@dataclass(frozen=True)
class SelectionInput:
    """A batch whose features are to be selected; pre-activations are centred @ weight.T + bias. `gather` joins the
    pre-activations of all `world` processes that share the batch."""

    centred: Tensor
    weight: Tensor
    bias: Tensor
    l0: float
    stats: BatchStats
    gather: Callable[[Tensor], Tensor] = lambda pre: pre
    world: int = 1


@dataclass(frozen=True, kw_only=True)
class Kind(Part, ABC):
    """Base of the kinds of autoencoder. As it is, features are active where their pre-activation exceeds a threshold.

    To add a kind, derive a frozen dataclass and define `activate`; it trains, saves, loads and is named like the
    built-in ones.

    >>> from dataclasses import dataclass
    >>> from cloche.sparse.saes import SAE, FeatureActs, Kind
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Squared(Kind):
    ...     def activate(self, pre, extra):
    ...         values = self.magnitude(pre, extra)
    ...         return FeatureActs(values, values.sum())
    ...     def magnitude(self, pre, extra):
    ...         return pre.relu().square()
    >>> SAE(4, 16, l0=2, kind=Squared())
    SAE(...Squared, 16 features of width 4, l0 2, scale 1)
    """

    nested: tuple[int, ...] = ()
    thresholded: ClassVar[bool] = True  # after training, a threshold rather than a count decides
    saelens: ClassVar[str | None] = "jumprelu"  # its architecture in SAELens after training; None: it has none there
    saelens_training: ClassVar[str | None] = None  # that in training, where it is another
    renamed = {  # noqa: RUF012 (a ClassVar of Part)
        **{name.lower(): name for name in ("TopK", "BatchTopK", "ReLU", "Gated", "JumpReLU")},
        **{f"{name.lower()}-sae": name for name in ("TopK", "BatchTopK", "ReLU", "Gated", "JumpReLU")},
    }

    def __init_subclass__(cls) -> None:
        """A kind that computes or selects features in a way of its own has none in SAELens, unless it says which."""
        super().__init_subclass__()
        if {"choose", "active", "magnitude"} & vars(cls).keys() and "saelens" not in vars(cls):
            cls.saelens = None

    def check(self, features: int, l0: float) -> None:
        """Raises on an l0 impossible for this number of features, and on `nested` numbers that do not increase."""
        if not 0 < l0 <= features:
            raise SettingRange(
                f"l0 = {l0:g} is impossible with {features:,} features: choose an l0 above 0 and at most {features:,}."
            )
        if any(not 0 < prefix < features for prefix in self.nested) or list(self.nested) != sorted(set(self.nested)):
            raise SettingRange(
                f"nested={self.nested} must increase, each number from 1 to {features - 1:,}: give the numbers of leading "
                "features that reconstruct on their own."
            )

    def weights(self, features: int, width: int) -> dict[str, Tensor]:
        """Initial values of the extra weights beside encoder and decoder: one per feature, or settings (scalars)."""
        return {}

    def threshold(self, extra: dict[str, Tensor]) -> Tensor | float:
        """Threshold that a pre-activation must exceed for its feature to be active: one number, or one per feature."""
        return 0.0

    def choose(self, batch: SelectionInput, extra: dict[str, Tensor]) -> Chosen:
        """Selects the features whose pre-activations can affect a training batch."""
        if batch.stats.share > _DENSE:
            return AllFeatures(len(batch.centred), len(batch.weight))
        return above(batch.centred, batch.weight, batch.bias, self.threshold(extra))

    def active(self, batch: SelectionInput, extra: dict[str, Tensor], offset: Tensor) -> Choice:
        """Features active after training; `offset` (the calibrated threshold) is added to each feature's threshold."""
        low = torch.clamp(self.threshold(extra) + offset, min=0.0)
        return above(batch.centred, batch.weight, batch.bias, low)

    @abstractmethod
    def activate(self, pre: Tensor, extra: dict[str, Tensor]) -> FeatureActs:
        """Feature activations in training from the pre-activations of the selected slots; `extra` are the slots'
        extra weights."""

    def magnitude(self, pre: Tensor, extra: dict[str, Tensor]) -> Tensor:
        """Activation of an active feature; a feature is inactive where `pre` <= 0."""
        return pre.relu()


@dataclass(frozen=True, kw_only=True)
class TopK(Kind):
    """The k = l0 largest pre-activations of each signal: Gao et al. 2024 (2406.04093).

    >>> import torch
    >>> from cloche.sparse.saes import SAE, TopK
    >>> sae = SAE(8, 32, l0=4, kind=TopK())
    >>> sae.encode(torch.randn(3, 8, generator=torch.Generator().manual_seed(0))).active.tolist()
    [4, 4, 4]
    """

    thresholded: ClassVar[bool] = False
    saelens = "topk"

    def check(self, features: int, l0: float) -> None:
        super().check(features, l0)
        if l0 != int(l0):
            raise SettingConflict(
                f"TopK needs a whole number of active features, not l0 = {l0:g}: round it, or use BatchTopK."
            )

    def choose(self, batch: SelectionInput, extra: dict[str, Tensor]) -> Choice:
        return select_topk(batch.centred, batch.weight, batch.bias, int(batch.l0))

    def active(self, batch: SelectionInput, extra: dict[str, Tensor], offset: Tensor) -> Choice:
        return self.choose(batch, extra)

    def activate(self, pre: Tensor, extra: dict[str, Tensor]) -> FeatureActs:
        return FeatureActs(pre.relu())


@dataclass(frozen=True, kw_only=True)
class BatchTopK(Kind):
    """The n * l0 largest pre-activations of a batch (Bussmann et al. 2024, 2412.06410); after training, a threshold
    replaces the count.

    >>> import torch
    >>> from cloche.sparse.saes import SAE, BatchTopK
    >>> sae = SAE(8, 32, l0=4, kind=BatchTopK())
    >>> x = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
    >>> round(sae.calibrate(x), 2)  # sets the threshold that replaces the count
    4.0
    """

    saelens, saelens_training = "jumprelu", "batchtopk"

    def choose(self, batch: SelectionInput, extra: dict[str, Tensor]) -> Chosen:
        total = max(1, round(batch.l0 * len(batch.centred) * batch.world))
        asked = batch.centred, batch.weight, batch.bias
        choice, batch.stats.least = select_batch(*asked, total, batch.stats.least, batch.gather)
        return choice

    def activate(self, pre: Tensor, extra: dict[str, Tensor]) -> FeatureActs:
        return FeatureActs(pre.relu())


@dataclass(frozen=True, kw_only=True)
class ReLU(Kind):
    """values = relu(pre), with an L1 penalty (Cunningham et al. 2023, 2309.08600; atoms have unit norm).

    >>> import torch
    >>> from cloche.sparse.saes import ReLU
    >>> ReLU(nested=(16, 64)).to_line()  # Matryoshka: 16, 64 and all features must reconstruct
    'ReLU(nested=[16, 64])'
    >>> float(ReLU().activate(torch.tensor([[-3.0, 1.0]]), {}).penalty)
    1.0
    """

    saelens = "standard"

    def activate(self, pre: Tensor, extra: dict[str, Tensor]) -> FeatureActs:
        values = pre.relu()
        return FeatureActs(values, values.sum())


@dataclass(frozen=True, kw_only=True)
class JumpReLU(Kind):
    """values = pre where pre > the feature's threshold, which is learned through a window of width `bandwidth`; the
    penalty is the number of active features (Rajamanoharan et al. 2024, 2407.14435).

    `bandwidth` is relative to the norm of a signal, sqrt(width) at the trained scale. The paper's 0.001 is meant for
    billions of signals; short runs need a wider window.

    >>> import torch
    >>> from cloche.sparse.saes import JumpReLU
    >>> extra = {"log_threshold": torch.zeros(3), "window": torch.tensor(0.1)}  # thresholds of 1
    >>> acts = JumpReLU().activate(torch.tensor([[0.5, 1.5, 3.0]]), extra)
    >>> acts.values.tolist(), float(acts.penalty)
    ([[0.0, 1.5, 3.0]], 2.0)
    """

    bandwidth: float = 0.03
    saelens = "jumprelu"

    def __post_init__(self) -> None:
        positive(self, bandwidth=self.bandwidth)

    def weights(self, features: int, width: int) -> dict[str, Tensor]:
        window = self.bandwidth * width**0.5
        return {"log_threshold": torch.full((features,), window).log(), "window": torch.tensor(window)}

    def threshold(self, extra: dict[str, Tensor]) -> Tensor:
        return extra["log_threshold"].exp()

    def choose(self, batch: SelectionInput, extra: dict[str, Tensor]) -> Chosen:
        if batch.stats.share > _DENSE:
            return AllFeatures(len(batch.centred), len(batch.weight))
        reach = self.threshold(extra) - extra["window"] / 2  # those below it but within the window have a gradient too
        return above(batch.centred, batch.weight, batch.bias, reach)

    def activate(self, pre: Tensor, extra: dict[str, Tensor]) -> FeatureActs:
        threshold, window = extra["log_threshold"].exp(), float(extra["window"])
        return FeatureActs(_Jump.apply(pre, threshold, window), _Step.apply(pre, threshold, window).sum())


@dataclass(frozen=True, kw_only=True)
class Gated(Kind):
    """A gate decides which features are active and a rescaled copy of it how strongly, so that the penalty on the
    gate does not shrink the values (Rajamanoharan et al. 2024, 2404.16014).

    >>> import torch
    >>> from cloche.sparse.saes import Gated
    >>> extra = {"log_gain": torch.full((2,), 2.0).log(), "gate_bias": torch.full((2,), -1.0)}
    >>> acts = Gated().activate(torch.tensor([[0.5, 3.0]]), extra)
    >>> acts.values.tolist(), acts.gate_acts.tolist()
    ([[0.0, 6.0]], [[0.0, 2.0]])
    """

    saelens = "gated"

    def weights(self, features: int, width: int) -> dict[str, Tensor]:
        return {"log_gain": torch.zeros(features), "gate_bias": torch.zeros(features)}

    def threshold(self, extra: dict[str, Tensor]) -> Tensor:
        return -extra["gate_bias"]

    def activate(self, pre: Tensor, extra: dict[str, Tensor]) -> FeatureActs:
        gate = pre + extra["gate_bias"]
        gate_acts = gate.relu()
        return FeatureActs(self.magnitude(pre, extra) * (gate > 0), gate_acts.sum(), gate_acts)

    def magnitude(self, pre: Tensor, extra: dict[str, Tensor]) -> Tensor:
        return (pre * extra["log_gain"].exp()).relu()


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
    """1 where pre > threshold; the threshold's gradient is -1 / window inside the window around it; `pre` has none."""

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
