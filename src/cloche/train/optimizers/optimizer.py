"""Optimisers as values. Each builds one or more torch optimisers with named groups."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

import torch

from cloche.errors import PartInvalid, shown
from cloche.part import Part, positive
from cloche.train.monitors.warning import Tolerance
from cloche.train.optimizers.average import Average
from cloche.train.optimizers.groups import Group

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Optimizer(Part, ABC):
    """Base of optimisers: how weights are updated. A subclass defines `build`.

    lr: the one learning rate; those of all groups are proportional to it, and the schedule multiplies them. clip:
    largest norm of the whole gradient; a larger one is scaled down to it (1e30: none is). average: of the weights over the
    updates, kept beside them, such as EMA(decay=0.999); validated too, and opened by `cloche.load(run, average=True)`.
    groups: settings of their own for some parameters (see `Group`); they apply to what `build` returns, so a subclass need
    not know of them.

    >>> from dataclasses import dataclass
    >>> import torch
    >>> from cloche.train import Group, Optimizer, Stepper
    >>> @dataclass(frozen=True)
    ... class Descent(Optimizer):
    ...     def build(self, net, dtype=torch.float32):
    ...         return [torch.optim.SGD([{"name": "all", "params": list(net.parameters()), "lr": self.lr}])]
    >>> Stepper(torch.nn.Linear(4, 2), Descent(lr=0.5)).set_rate(0.1)
    {'all': 0.05}
    >>> Stepper(torch.nn.Linear(4, 2), Descent(lr=0.5, groups=(Group("bias", scale=2.0),))).set_rate(0.1)
    {'all': 0.05, 'bias': 0.1}
    """

    usual_update_ratio: ClassVar[float] = (
        0.003  # |update| / |weights| per step above which updates are larger than usual
    )

    # Lowest and highest usual values per layer of other measures of health (bench/train/limits.py); a subclass names those
    # that differ, and has the rest of its bases.
    usual_limits: ClassVar[Mapping[str, tuple[float, float]]] = {
        "attention_entropy": (0.03, 1.0),
        "dead_units": (0.0, 0.45),
        "logit_norm": (0.0, 30.0),
        "rank": (1.2, math.inf),
        "kurtosis": (0.0, 20.0),
        "gain": (0.5, 3.0),
    }

    tolerance: ClassVar[Tolerance] = Tolerance()  # of the loss and gradient norm, before an early warning

    carries_groups: ClassVar[bool] = False  # whether numbers in its torch optimisers' groups are state

    # Powers of the width that keep the best rate where it is, by role ("hidden", "head", "embedding", "vector"), for MuP.
    width_powers: ClassVar[Mapping[str, float] | None] = None

    lr: float = 1e-3
    clip: float = field(default=1.0, kw_only=True)
    average: Average | None = field(default=None, kw_only=True)
    groups: tuple[Group, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        positive(self, lr=self.lr, clip=self.clip)
        if not isinstance(self.groups, list | tuple) or not all(isinstance(group, Group) for group in self.groups):
            raise PartInvalid(
                f"groups of {type(self).__name__} must be Groups, such as (Group('embed', lr=0.01),), not {shown(self.groups)}."
            )
        object.__setattr__(self, "groups", tuple(self.groups))

    @property
    def label(self) -> str:
        """What a checkpoint names it: an optimiser with another label cannot use its state."""
        return type(self).__name__

    def limits(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest usual values of the measures of health, by key of health.jsonl, for a layer where they are
        measured per layer (heads averaged): beyond them they are named in "alarms" of a record.

        `usual_limits` of a class are added to those of its bases.

        >>> from dataclasses import dataclass
        >>> from cloche.train import AdamW
        >>> @dataclass(frozen=True)
        ... class Careful(AdamW):
        ...     usual_limits = {"gain": (0.5, 2.0)}
        >>> Careful().limits()["gain"], Careful().limits()["update_ratio"], Careful().limits()["rank"]
        ((0.5, 2.0), (0.0, 0.03), (1.2, inf))
        """
        found = {"update_ratio": (0.0, self.usual_update_ratio)}
        for cls in reversed(type(self).__mro__):
            found |= vars(cls).get("usual_limits", {})
        return found

    @abstractmethod
    def build(self, net: nn.Module, dtype: torch.dtype = torch.float32) -> list[torch.optim.Optimizer]:
        """torch optimisers that hold each parameter of `net` once, in groups with a "name" and their peak "lr".

        dtype: that of fast matrix products, bf16 if the run trains in it. Its state must be tensors, numbers, or lists of them.
        What they may have beside torch's methods: see `Observes`, `Moves` and `Reports`.
        """


@runtime_checkable
class Observes(Protocol):
    """A torch optimiser that looks at the run before each step: the loss of the gradients, the share of the run that is done,
    and by what the gradients were multiplied to clip them."""

    def observe(self, loss: float, progress: float, clipped: float) -> None: ...


@runtime_checkable
class Moves(Protocol):
    """A torch optimiser that knows how far it moved each parameter in its last step: the sum of squares of the update, for
    those that it did not leave as they were. Without it health copies the weights, and steps.jsonl has no update norms."""

    def moved(self) -> Mapping[Tensor, Tensor]: ...


@runtime_checkable
class Reports(Protocol):
    """A torch optimiser, or a source of batches, that has figures of its last step for metrics.jsonl."""

    def figures(self) -> dict[str, float]: ...
