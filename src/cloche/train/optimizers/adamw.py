"""AdamW: Adam with decoupled weight decay (Loshchilov & Hutter, 1711.05101)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cloche.part import positive, within
from cloche.train.optimizers.groups import BELOW_ONE, grouped
from cloche.train.optimizers.moved import moved_along
from cloche.train.optimizers.optimizer import Optimizer

SMALLEST = 1e-36  # added to squares before their roots: on CPUs, sqrt(0) is several times as slow as other roots


def fill_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Makes a missing gradient, such as that of an expert that received no token, zero, so that its averages and weights
    decay like the others."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad


class FilledAdamW(torch.optim.AdamW):
    """torch's AdamW; a missing gradient counts as zero."""

    # The number of steps in each of the state's tensors of that, which on a GPU would wait to be asked.
    _known: Mapping[Tensor, float] = {}

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        fill_gradients(self)
        found = super().step(closure)
        self._known = {taken: number + 1 for taken, number in self._known.items()}
        return found

    @torch.no_grad()
    def moved(self) -> dict[Tensor, Tensor]:
        """Sum of squares of each parameter's last update."""
        groups = [(p, group) for group in self.param_groups for p in group["params"]]
        taken = [self.state[p]["step"] for p, _ in groups]
        if any(each not in self._known for each in taken):  # at first, or the state was restored
            self._known = dict(zip(taken, torch.stack(taken).tolist(), strict=True))
        return {p: _moved(p, self.state[p], group, self._known[t]) for (p, group), t in zip(groups, taken, strict=True)}


def _moved(p: Tensor, state: Mapping[str, Tensor], group: Mapping[str, Any], step: float) -> Tensor:
    """Sum of squares of the last update of Adam (1412.6980), lr m / (1 - beta1^t) / (root of v / (1 - beta2^t), + eps)."""
    beta1, beta2 = group["betas"]
    first, second = 1 - beta1**step, math.sqrt(1 - beta2**step)
    root = torch.add(state["exp_avg_sq"], SMALLEST).sqrt_().add_(group["eps"] * second)
    return moved_along(p, state["exp_avg"], root, group["lr"] * second / first, group["lr"] * group["weight_decay"])


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

    usual_update_ratio: ClassVar[float] = 0.03
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
