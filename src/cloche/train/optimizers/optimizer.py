"""Optimisers as values. Each builds one or more torch optimisers with named groups."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch

from cloche.part import Part, positive
from cloche.train.optimizers.average import Average

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Optimizer(Part, ABC):
    """Base of optimisers: how weights are updated. A subclass defines `build`.

    lr: the one learning rate; those of all groups are proportional to it, and the schedule multiplies them. clip:
    largest norm of the whole gradient; a larger one is scaled down to it (1e30: none is). average: of the weights over the
    updates, kept beside them, such as EMA(decay=0.999); validated too, and opened by `cloche.load(run, average=True)`.

    >>> from dataclasses import dataclass
    >>> import torch
    >>> from cloche.train import Optimizer, Stepper
    >>> @dataclass(frozen=True)
    ... class SGD(Optimizer):
    ...     def build(self, net, dtype=torch.float32):
    ...         return [torch.optim.SGD([{"name": "all", "params": list(net.parameters()), "lr": self.lr}])]
    >>> Stepper(torch.nn.Linear(4, 2), SGD(lr=0.5)).set_rate(0.1)
    {'all': 0.05}
    """

    usual_update_ratio: ClassVar[float] = (
        0.003  # |update| / |weights| per step above which updates are larger than usual
    )

    lr: float = 1e-3
    clip: float = field(default=1.0, kw_only=True)
    average: Average | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        positive(self, lr=self.lr, clip=self.clip)

    @abstractmethod
    def build(self, net: nn.Module, dtype: torch.dtype = torch.float32) -> list[torch.optim.Optimizer]:
        """torch optimisers that hold each parameter of `net` once, in groups with a "name" and their peak "lr".

        dtype: that of fast matrix products, bf16 if the run trains in it. All optimiser state must be tensors.
        """


def grouped(net: nn.Module) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Parameters by group, "matrix", "embedding" or "vector": as a Network declares them, else by number of
    dimensions."""
    if hasattr(net, "groups"):
        return net.groups()  # type: ignore[operator]
    groups: dict[str, list[tuple[str, nn.Parameter]]] = {"matrix": [], "embedding": [], "vector": []}
    for name, parameter in net.named_parameters():
        groups["matrix" if parameter.ndim == 2 else "vector"].append((name, parameter))
    return groups
