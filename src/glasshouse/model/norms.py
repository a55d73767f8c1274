"""Normalisations: what stands before a branch reads the residual stream."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from glasshouse.model.declare import Declared, Module
from glasshouse.model.part import Part, positive


class Norm(Part):
    """A normalisation over the last axis. `build(width)` gives a module from [..., width] to [..., width]."""

    def build(self, width: int) -> Module:
        raise TypeError(f"{type(self).__name__} must define build(width)")


@dataclass(frozen=True)
class RMSNorm(Norm):
    """x / sqrt(mean(x^2) + eps) * gain (Zhang and Sennrich 2019, 1910.07467)."""

    eps: float = 1e-5

    def __post_init__(self) -> None:
        positive(self, eps=self.eps)

    def build(self, width: int) -> Module:
        return _RMSNorm(width, self.eps)


@dataclass(frozen=True)
class LayerNorm(Norm):
    """(x - mean) / sqrt(variance + eps) * gain + bias (Ba et al. 2016, 1607.06450)."""

    eps: float = 1e-5
    bias: bool = True

    def __post_init__(self) -> None:
        positive(self, eps=self.eps)

    def build(self, width: int) -> Module:
        return _LayerNorm(width, self.eps, self.bias)


class _RMSNorm(Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = self.declare("weight", (width,), Declared(constant=1.0, group="vector"))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class _LayerNorm(Module):
    def __init__(self, width: int, eps: float, bias: bool) -> None:
        super().__init__()
        self.eps = eps
        self.weight = self.declare("weight", (width,), Declared(constant=1.0, group="vector"))
        self.bias = self.declare("bias", (width,), Declared(group="vector")) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)
