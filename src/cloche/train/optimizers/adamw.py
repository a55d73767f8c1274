"""AdamW: Adam with decoupled weight decay (Loshchilov & Hutter, 1711.05101)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cloche.part import positive, within
from cloche.train.optimizers.groups import BELOW_ONE, grouped
from cloche.train.optimizers.moved import moved_by
from cloche.train.optimizers.optimizer import Optimizer

SMALLEST = 1e-36  # added to squares: on CPUs the root of a zero takes several times as long as that of another number


def fill_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Makes a missing gradient, such as that of an expert that received no token, zero, so that its averages and weights
    decay like the others."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad


class FilledAdamW(torch.optim.AdamW):
    """torch's AdamW; a missing gradient counts as zero."""

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        fill_gradients(self)
        return super().step(closure)

    @torch.no_grad()
    def moved(self) -> dict[Tensor, Tensor]:
        """Sum of squares of each parameter's last update."""
        return {
            p: moved_by(p, _direction(self.state[p], group), group["lr"], group["weight_decay"])
            for group in self.param_groups
            for p in group["params"]
        }


def _direction(state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
    """What Adam (1412.6980) multiplied by the rate in its last step: m / (1 - beta1^t) / (root of v / (1 - beta2^t), + eps)."""
    beta1, beta2 = group["betas"]
    step = state["step"].double()  # a tensor on the GPU: a number of it would wait for each parameter
    first, second = 1 - beta1**step, (1 - beta2**step).sqrt()
    root = torch.add(state["exp_avg_sq"], SMALLEST).sqrt_().add_(group["eps"] * second)
    return torch.div(state["exp_avg"], root, out=root).mul_(second / first)


def decayed(net: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """All parameters in two groups, "rest" without weight decay and "matrix" with it."""
    groups = grouped(net)
    rest = [p for kind in ("embedding", "vector") for _, p in groups[kind]]
    matrices = [p for _, p in groups["matrix"]]
    named = [
        {"name": "rest", "params": rest, "lr": lr, "weight_decay": 0.0},
        {"name": "matrix", "params": matrices, "lr": lr, "weight_decay": weight_decay},
    ]
    return [group for group in named if group["params"]]


def adam_for_rest(
    groups: dict[str, list[tuple[str, nn.Parameter]]], lr: float, betas: tuple[float, float], eps: float = 1e-8
) -> list[torch.optim.Optimizer]:
    """AdamW without weight decay for what is no matrix, in one group "rest"; [] if there is nothing."""
    rest = [p for kind in ("embedding", "vector") for _, p in groups[kind]]
    named = [{"name": "rest", "params": rest, "lr": lr, "weight_decay": 0.0}]
    return [FilledAdamW(named, betas=betas, eps=eps, fused=True)] if rest else []


@dataclass(frozen=True)
class AdamW(Optimizer):
    """AdamW on all parameters (1711.05101). Weight decay applies to matrices only.

    >>> import torch
    >>> from cloche.train import AdamW
    >>> (built,) = AdamW(lr=0.001).build(torch.nn.Linear(4, 2))
    >>> [(group["name"], group["lr"], group["weight_decay"]) for group in built.param_groups]
    [('rest', 0.001, 0.0), ('matrix', 0.001, 0.1)]
    """

    usual_update_ratio: ClassVar[float] = 0.01
    width_powers: ClassVar[Mapping[str, float]] = {"hidden": -1.0, "head": -1.0}

    lr: float = 6e-3
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, eps=self.eps)
        within(self, lr=(0, 1000), eps=(0, 1), beta1=(0, BELOW_ONE), beta2=(0, BELOW_ONE), weight_decay=(0, 1000))

    def build(self, net: nn.Module, dtype: torch.dtype = torch.float32) -> list[torch.optim.Optimizer]:
        held = decayed(net, self.lr, self.weight_decay)
        return [FilledAdamW(held, betas=(self.beta1, self.beta2), eps=self.eps, fused=True)]
