"""Gradient descent with momentum, and RMSprop: torch's, with decoupled weight decay and missing gradients taken for zero."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cloche.errors import PartInvalid
from cloche.part import positive, within
from cloche.train.optimizers.adamw import decayed, fill_gradients
from cloche.train.optimizers.groups import BELOW_ONE
from cloche.train.optimizers.moved import moved_by
from cloche.train.optimizers.optimizer import Optimizer


@contextmanager
def decoupled(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Shrinks the weights by lr * weight_decay, and keeps that decay out of the gradient, to which torch would add it."""
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    for group, decay in zip(optimizer.param_groups, decays, strict=True):
        if decay:
            with torch.no_grad():
                torch._foreach_mul_(group["params"], 1 - group["lr"] * decay)
        group["weight_decay"] = 0.0
    try:
        yield
    finally:
        for group, decay in zip(optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay


class Decoupled(torch.optim.Optimizer):
    """Decoupled weight decay before the step of one of torch's optimisers, which follows it among the bases; `_direction` is
    what that step takes a parameter along."""

    def step(self, closure: Any = None) -> Any:
        fill_gradients(self)
        with decoupled(self):
            return super().step(closure)

    @torch.no_grad()
    def moved(self) -> dict[Tensor, Tensor]:
        """Sum of squares of each parameter's last update."""
        return {
            p: moved_by(p, self._direction(p, group), group["lr"], group["weight_decay"])
            for group in self.param_groups
            for p in group["params"]
        }

    def _direction(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define _direction(p, group)")


class DecoupledSGD(Decoupled, torch.optim.SGD):
    """torch's SGD with decoupled weight decay (SGDW, 1711.05101)."""

    def _direction(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        if not group["momentum"]:
            return p.grad.clone()  # type: ignore[union-attr]
        buffer = self.state[p]["momentum_buffer"]
        return p.grad.add(buffer, alpha=group["momentum"]) if group["nesterov"] else buffer.clone()  # type: ignore[union-attr]


class DecoupledRMSprop(Decoupled, torch.optim.RMSprop):
    """torch's RMSprop with decoupled weight decay."""

    def _direction(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[p]
        if group["momentum"]:
            return state["momentum_buffer"].clone()
        average = state["square_avg"]
        if group["centered"]:
            average = average.addcmul(state["grad_avg"], state["grad_avg"], value=-1)
        return p.grad / average.sqrt().add_(group["eps"])


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum, Nesterov's if asked: m <- momentum m + g, w <- w - lr m. Weight decay is
    decoupled from the gradient (1711.05101) and applies to matrices only.

    >>> import torch
    >>> from cloche.train import SGD, Stepper
    >>> net = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer, before = Stepper(net, SGD(lr=0.1)), net.weight.item()
    >>> net(torch.ones(1, 1)).sum().backward()
    >>> optimizer.step()
    >>> round(before - net.weight.item(), 4)
    0.1
    """

    usual_update_ratio: ClassVar[float] = 0.03
    # Of a tied model it leaves the stream near one direction for long, and learns nevertheless.
    usual_limits: ClassVar[Mapping[str, tuple[float, float]]] = {"rank": (1.0, math.inf)}

    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, lr=(0, 1000), momentum=(0, BELOW_ONE), weight_decay=(0, 1000))
        if self.nesterov and not self.momentum:
            raise PartInvalid("SGD(nesterov=True) needs momentum above zero; give it, or leave nesterov out.")

    def build(self, net: nn.Module, dtype: torch.dtype = torch.float32) -> list[torch.optim.Optimizer]:
        held = [{**group, "decoupled_weight_decay": True} for group in decayed(net, self.lr, self.weight_decay)]
        return [DecoupledSGD(held, self.lr, momentum=self.momentum, nesterov=self.nesterov, fused=True)]


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton 2012): the gradient over the root of an average of its square, v <- alpha v + (1 - alpha) g^2,
    then momentum. centered: the average gradient's square is subtracted from v (1308.0850). Weight decay is decoupled and
    applies to matrices only.

    >>> import torch
    >>> from cloche.train import RMSprop, Stepper
    >>> net = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer, before = Stepper(net, RMSprop(lr=0.01, alpha=0.99, weight_decay=0.0)), net.weight.item()
    >>> net(torch.full((1, 1), 5.0)).sum().backward()
    >>> optimizer.step()
    >>> round(before - net.weight.item(), 4)
    0.1
    """

    usual_update_ratio: ClassVar[float] = 0.05

    lr: float = 1e-3
    alpha: float = 0.99
    momentum: float = 0.0
    centered: bool = False
    eps: float = 1e-8
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, eps=self.eps)
        within(self, lr=(0, 1000), alpha=(0, BELOW_ONE), momentum=(0, BELOW_ONE), eps=(0, 1), weight_decay=(0, 1000))

    def build(self, net: nn.Module, dtype: torch.dtype = torch.float32) -> list[torch.optim.Optimizer]:
        held = [{**group, "decoupled_weight_decay": True} for group in decayed(net, self.lr, self.weight_decay)]
        return [DecoupledRMSprop(held, self.lr, self.alpha, self.eps, momentum=self.momentum, centered=self.centered)]
