"""SOAP: Adam in the eigenbasis of Shampoo's products (Vyas et al., 2409.11321)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cloche.part import positive, within
from cloche.train.optimizers.adamw import adam_for_rest
from cloche.train.optimizers.groups import BELOW_ONE, grouped, row_counts
from cloche.train.optimizers.kronecker.shampoo import Kronecker, accumulate, between, eigh
from cloche.train.optimizers.optimizer import Optimizer


class MatrixSOAP(Kronecker):
    """SOAP's update of matrices; see `SOAP`. A block's maps are its eigenvectors, in columns, the largest eigenvalue first;
    "exp_avg" is in the coordinates of the gradient and "exp_avg_sq" in those of the eigenvectors."""

    def direction(self, gradient: Tensor, block: dict[str, Tensor], step: int, group: dict[str, Any]) -> Tensor:
        beta1, beta2 = group["betas"]
        sides = [side for side in ("left", "right") if side in block]
        if step == 1:  # no eigenvectors yet: those of a gradient's own products would say nothing of its noise
            accumulate(block, gradient, beta2)
            for side in sides:
                block[f"{side}_map"].copy_(eigh(block[side])[1].flip(-1))
            return torch.zeros_like(gradient)
        taken = step - 1
        turned = between(block, gradient)
        mean = between(block, block["exp_avg"].lerp_(gradient, 1 - beta1)) / (1 - beta1**taken)
        square = block["exp_avg_sq"].lerp_(turned.square(), 1 - beta2) / (1 - beta2**taken)
        update = between(block, mean / (square.sqrt() + group["eps"]), back=True)
        accumulate(block, gradient, beta2)
        if taken % self.every == 0:
            for side in sides:
                refresh(block, side)
        return update


def refresh(block: dict[str, Tensor], side: str) -> None:
    """One round of power iteration, the columns brought into the order of their eigenvalues before it."""
    product, basis = block[side], block[f"{side}_map"]
    grown = product @ basis
    order = torch.linalg.vecdot(basis, grown, dim=0).argsort(descending=True, stable=True)
    block["exp_avg_sq"].copy_(block["exp_avg_sq"].index_select(0 if side == "left" else 1, order))
    basis.copy_(torch.linalg.qr(grown[:, order])[0])


@dataclass(frozen=True)
class SOAP(Optimizer):
    """SOAP on matrices (2409.11321), AdamW on all else at the same rate. Weight decay applies to matrices only.

    Adam in other coordinates: those of the eigenvectors of L and R, averages of G G^T and G^T G over a matrix's gradients G.
    The first update only makes them; every `every` updates they are improved by one round of power iteration and a QR
    decomposition. largest: a side of more entries keeps its coordinates. Matrices stacked in one parameter, q, k and v, have
    eigenvectors each of its own.

    >>> import torch
    >>> from cloche.train import SOAP, Stepper
    >>> net = torch.nn.Linear(3, 2)
    >>> optimizer = Stepper(net, SOAP(lr=0.01))
    >>> net(torch.ones(1, 3)).sum().backward()
    >>> optimizer.step()
    >>> {name: tuple(value.shape) for name, value in optimizer.state().items() if "map" in name}
    {'weight/left_map0': (2, 2), 'weight/right_map0': (3, 3)}
    """

    usual_update_ratio: ClassVar[float] = 0.03
    usual_limits: ClassVar[Mapping[str, tuple[float, float]]] = {"gain": (0.5, 2.2)}

    lr: float = 3e-3
    beta1: float = 0.95
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    every: int = 10
    largest: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, eps=self.eps, every=self.every, largest=self.largest)
        within(self, lr=(0, 1000), eps=(0, 1), beta1=(0, BELOW_ONE), beta2=(0, BELOW_ONE), weight_decay=(0, 1000))

    def build(self, net: nn.Module, dtype: torch.dtype = torch.float32) -> list[torch.optim.Optimizer]:
        groups = grouped(net)
        settings = {"lr": self.lr, "betas": (self.beta1, self.beta2), "eps": self.eps}
        held = [{"name": "matrix", "params": [p for _, p in groups["matrix"]], "weight_decay": self.weight_decay}]
        rows = row_counts(net, groups["matrix"])
        made = [MatrixSOAP(held, settings, self.every, self.largest, rows)] if groups["matrix"] else []
        return [*made, *adam_for_rest(groups, self.lr, (self.beta1, self.beta2), self.eps)]
