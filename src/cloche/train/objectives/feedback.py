"""Feedback alignment: the backward pass of linear maps multiplies by fixed random matrices."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from cloche.errors import ModelUnsupported
from cloche.model import linear_maps, with_feedback
from cloche.part import within
from cloche.train.objectives.objective import Term
from cloche.train.objectives.wrapping import Wrapping

_DRAWN: WeakKeyDictionary[nn.Module, dict[int, dict[str, Tensor]]] = WeakKeyDictionary()  # by network, seed and weight


@dataclass(frozen=True)
class FeedbackAlignment(Wrapping):
    """Another objective, whose gradient is computed without the transposed weights (Lillicrap et al. 2016, 1411.0247): on its
    way back through a linear map y = x W^T + b, the gradient is multiplied by a fixed random matrix B instead of W. A brain
    could do this, since no synapse needs to know another's strength.

    The forward pass and the loss are the same to the bit, and so is the gradient of the last linear map. Norms, activations
    and attention's products pass the gradient as usual. The entries of B are normal, of the deviation with which W begins,
    drawn from (seed, name of W) and not saved; of a layer that is pruned, they are drawn anew.

    >>> import torch
    >>> from cloche.model import GLU, LM, Attention, Block, Stack
    >>> from cloche.train import FeedbackAlignment, NextToken
    >>> net = LM(vocab=20, width=24, body=Stack(1, Block(Attention(2), GLU()))).build(0)
    >>> batch, aligned = torch.randint(20, (2, 9)), FeedbackAlignment(NextToken(), seed=0)
    >>> torch.equal(aligned.terms(net, batch)["loss"].value, NextToken().terms(net, batch)["loss"].value)
    True
    >>> angles = aligned.angles(net, batch)
    >>> angles["unembed.weight"] < 0.1, angles["body.layers.0.map.inner.weight"] > 60
    (True, True)
    """

    seed: int = 0

    def __post_init__(self) -> None:
        within(self, seed=(0, 2**53))

    def check(self, net: Any) -> None:
        super().check(net)
        if not linear_maps(net):
            raise ModelUnsupported(f"{self} finds no linear map in this network.")

    def terms(self, net: Any, batch: Any) -> dict[str, Term]:
        with with_feedback(net, self.matrices(net)):
            return self.objective.terms(net, batch)

    def matrices(self, net: nn.Module) -> dict[str, Tensor]:
        """The matrix B of each linear map by the name of its weight; drawn once for a network."""
        drawn = _DRAWN.setdefault(net, {}).setdefault(self.seed, {})
        for name, module in linear_maps(net).items():
            weight, known = module.weight, drawn.get(name)
            if known is None or known.shape != weight.shape or known.device != weight.device:
                drawn[name] = self._drawn(name, module).to(weight)
        return drawn

    def _drawn(self, name: str, module: Any) -> Tensor:
        digest = hashlib.sha256(f"{self.seed}/feedback/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        declared = getattr(module, "declared", {}).get("weight")
        std = (declared.std if declared else 0.0) or module.weight.shape[1] ** -0.5
        return std * torch.randn(module.weight.shape, generator=generator)

    def angles(self, net: Any, batch: Any) -> dict[str, float]:
        """The angle in degrees between this gradient and the true one, by parameter: 90 at first, for what is below the last
        linear map; feedback alignment learns where it falls."""
        parameters = {name: p for name, p in net.named_parameters() if p.requires_grad}

        def gradients(terms: dict[str, Term]) -> tuple[Tensor | None, ...]:
            total = torch.stack([term.weight * term.value for term in terms.values()]).sum()
            return torch.autograd.grad(total, list(parameters.values()), allow_unused=True)

        pairs = zip(
            parameters, gradients(self.terms(net, batch)), gradients(self.objective.terms(net, batch)), strict=True
        )
        return {name: _degrees(a, b) for name, a, b in pairs if a is not None and b is not None}


def _degrees(a: Tensor, b: Tensor) -> float:
    a, b = a.double().flatten(), b.double().flatten()
    size = float(a.norm() * b.norm())
    return math.degrees(math.acos(max(-1.0, min(1.0, float(a @ b) / size)))) if size else 90.0
