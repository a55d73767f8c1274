"""Optimisers as values. What they build is one or more of torch's own, whose groups have names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch

from cloche.part import Part, positive

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Optimizer(Part, ABC):
    """How weights are moved along the gradient: the base of `Muon`, `AdamW` and your own.

    `lr` is the one learning rate: `build` makes those of all its groups proportional to it, so that setting it scales them
    all. The schedule multiplies them. `clip`: the largest norm of the whole gradient; a longer one is scaled down to it.
    """

    usual_update_ratio: ClassVar[float] = (
        0.003  # |update| / |weights| per step above which learning is faster than usual
    )

    lr: float = 1e-3
    clip: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        positive(self, lr=self.lr, clip=self.clip)

    @abstractmethod
    def build(self, net: nn.Module, dtype: torch.dtype = torch.float32) -> list[torch.optim.Optimizer]:
        """Optimisers of torch that share out the parameters of `net`, each group with a "name" and a "lr" at its peak.

        dtype: that of fast products of matrices, bf16 where the run trains in it. State must be tensors.
        """


def grouped(net: nn.Module) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Parameters by group, "matrix", "embedding" and "vector": as a Network declares them, else by their dimensions."""
    if hasattr(net, "groups"):
        return net.groups()  # type: ignore[operator]
    groups: dict[str, list[tuple[str, nn.Parameter]]] = {"matrix": [], "embedding": [], "vector": []}
    for name, parameter in net.named_parameters():
        groups["matrix" if parameter.ndim == 2 else "vector"].append((name, parameter))
    return groups
