"""Normalisations: what stands before a branch reads the residual stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
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
        return _Normalise.apply(x, self.weight, self.eps)


class _Normalise(torch.autograd.Function):
    """RMSNorm with its gradient written out: half the passes over memory of the composed operations on a CPU.

    The backward is made of differentiable operations, so second derivatives work.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = (norm.square() / x.shape[-1] + eps).rsqrt().to(x.dtype)
        ctx.save_for_backward(x, weight, scale)
        return x * scale * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (dy,) = gradients
        x, weight, scale = ctx.saved_tensors
        normed = x * scale
        dy_normed = dy * normed
        along = (dy_normed @ weight.to(dy.dtype))[..., None] / x.shape[-1]
        return torch.addcmul(dy * weight, normed, along, value=-1) * scale, dy_normed.flatten(0, -2).sum(0), None


class _LayerNorm(Module):
    def __init__(self, width: int, eps: float, bias: bool) -> None:
        super().__init__()
        self.eps = eps
        self.weight = self.declare("weight", (width,), Declared(constant=1.0, group="vector"))
        self.bias = self.declare("bias", (width,), Declared(group="vector")) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)
