"""A logit difference as a linear function of the residual stream, with the scales of norms frozen."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cloche.errors import ModelUnsupported
from cloche.model import Network, Unembed, freeze

ROUNDING = 1e-13  # share of the terms of a sum in double precision


@dataclass(frozen=True, eq=False)
class Readout:
    """Affine functions of a vector [width], one per pair of tokens: rows [pair, width] times it, plus constants [pair].

    In double precision, because the contributions of components are often much larger than their sum.
    """

    rows: Tensor
    constants: Tensor

    def before(self, norm: Any, x: Tensor) -> Readout:
        """The same functions of the input of `norm`, whose scale is held fixed at that of x [width].

        A norm with a fixed scale is affine (LayerNorm subtracts the mean, multiplies, and adds its bias), and a rectified one
        is in the units that are on, so its adjoint and its value at x are all there is to know.
        """
        with torch.no_grad():
            y, backward = freeze(norm, x)
            rows = backward(self.rows)
            own = self.rows @ y - rows @ x
        own[own.abs() <= ROUNDING * (rows * x).abs().sum(-1)] = 0.0  # such as RMSNorm's, which has none
        return Readout(rows, self.constants + own)


def readout(net: Network, x: Tensor, tokens: Tensor, against: Tensor) -> Readout:
    """Logit of each of `tokens` [pair] minus that of each of `against`, as functions of the final norm's input, at x [width].

    Before a soft cap of the logits. Raises ModelUnsupported for a head that is not an `Unembed`, and for a final norm that does
    not say how its scale is held fixed.
    """
    if not isinstance(net.spec.head, Unembed):
        raise ModelUnsupported(
            f"Logits are attributed through a linear head, and this model has {type(net.spec.head).__name__}; "
            "use activation patching instead."
        )
    rows, constants = _differences(net, tokens, against)
    return Readout(rows, constants).before(net.final_norm, x.double())


def _differences(net: Network, tokens: Tensor, against: Tensor) -> tuple[Tensor, Tensor]:
    """The head's rows [pair, width] and biases [pair] of the differences, in double precision."""
    head: Any = net.unembed
    weight = net.unembed_weight().detach()
    rows = weight[tokens].double() - weight[against].double()
    if head.bias is None:
        return rows, rows.new_zeros(len(rows))
    bias = head.bias.detach()
    return rows, bias[tokens].double() - bias[against].double()


def reading(net: Network, tokens: Tensor, against: Tensor) -> Network:
    """The same network, sharing its weights, whose logits are the differences [pair] alone, without a cap: a sweep then
    computes nothing for the rest of the vocabulary."""
    other = copy.copy(net)
    other._modules = dict(net._modules) | {
        "unembed": _Differences(*_differences(net, tokens, against), net.embed.weight.dtype)
    }
    return other


class _Differences(nn.Module):
    def __init__(self, rows: Tensor, constants: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.rows, self.constants = rows.to(dtype), constants.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.rows, self.constants)
