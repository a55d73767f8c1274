"""Parts of a third party, as a user writes them in a module of their own: an objective, an optimiser and a schedule."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cloche.model import Network
from cloche.train import NextToken, Objective, Optimizer, Schedule, Term


@dataclass(frozen=True)
class Confident(Objective):
    """Next-token loss, and a penalty on the entropy of the predictions."""

    penalty: float = 0.01

    def terms(self, net: Network, batch: Tensor) -> dict[str, Term]:
        shares = net(batch[:, :-1]).float().softmax(-1)
        entropy = torch.special.entr(shares).sum(-1).mean()
        return {**NextToken().terms(net, batch), "entropy": Term(entropy, self.penalty)}


class SignMomentum(torch.optim.Optimizer):
    """w <- w - lr sign(m), m an average of the gradients."""

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                m.lerp_(p.grad, 1 - group["beta"])
                p.sub_(m.sign(), alpha=group["lr"])


@dataclass(frozen=True)
class Sign(Optimizer):
    """Sign descent on everything."""

    lr: float = 1e-3
    beta: float = 0.9

    def build(self, net: nn.Module, dtype: torch.dtype = torch.float32) -> list[torch.optim.Optimizer]:
        groups = [{"name": "all", "params": list(net.parameters())}]
        return [SignMomentum(groups, {"lr": self.lr, "beta": self.beta})]


@dataclass(frozen=True)
class Steps(Schedule):
    """Full rate, then a tenth."""

    def after(self, step: float, rising: int, steps: int) -> float:
        return 1.0 if step < steps / 2 else 0.1
