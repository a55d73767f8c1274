"""Muon: orthogonalised momentum (Keller Jordan, kellerjordan.github.io/posts/muon)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cloche.part import positive, within
from cloche.train.optimizers.adamw import adam_for_rest
from cloche.train.optimizers.groups import BELOW_ONE, checked_rows, grouped, row_counts
from cloche.train.optimizers.moved import update_by
from cloche.train.optimizers.optimizer import Optimizer

# The quintic with the steepest slope at zero; it maps singular values to about [0.7, 1.2] in five rounds.
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, rounds: int = 5, eps: float = 1e-7) -> Tensor:
    """Newton-Schulz: [batch, rows, columns] -> about U V^T of each matrix U S V^T, in the dtype given."""
    a, b, c = QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)  # spectral norm at most 1
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class MatrixMuon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum with decoupled weight decay, for two-dimensional parameters.

    blocks: row counts of the matrices stacked in a parameter (q, k and v); each is orthogonalised by itself. Matrices
    of one shape go through Newton-Schulz together. The update is scaled by sqrt(max(1, rows / columns)). dtype: that
    of the matrix products, bf16 where it is fast, else fp32.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | list[dict[str, Any]],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        blocks: Mapping[Tensor, Sequence[int]] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.rows = checked_rows(self, blocks or {})
        self.dtype = dtype
        self._moved: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient; the others keep their momentum, zero if they never had a
        gradient."""
        self._moved = {}
        for group in self.param_groups:
            alike: dict[torch.Size, list[tuple[Tensor, Tensor, Tensor]]] = defaultdict(list)
            for p in group["params"]:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                if p.grad is None:
                    continue
                momentum = self.state[p]["momentum_buffer"]
                momentum.lerp_(p.grad, 1 - group["momentum"])
                direction = p.grad.lerp(momentum, group["momentum"])
                rows = self.rows[p]
                for target, update in zip(p.split(rows), direction.split(rows), strict=True):
                    alike[update.shape].append((p, target, update))
            for (rows_, columns), found in alike.items():
                stack = torch.stack([update for *_, update in found]).to(self.dtype)
                scale = max(1.0, rows_ / columns) ** 0.5
                rate, decay = group["lr"] * scale, group["weight_decay"] / scale
                for (p, target, _), update in zip(found, orthogonalise(stack), strict=True):
                    self._moved[p] = update_by(target, update, rate, decay) + self._moved.get(p, 0.0)

    def moved(self) -> dict[Tensor, Tensor]:
        """Sum of squares of each parameter's last update."""
        return self._moved


@dataclass(frozen=True)
class Muon(Optimizer):
    """Muon on matrices at `lr`, AdamW on all else at `adamw_ratio` times that. Weight decay applies to matrices only.

    >>> from cloche.train import Muon
    >>> muon = Muon(lr=0.01)
    >>> print(muon, muon.adamw_ratio, muon.momentum)
    Muon(lr=0.01) 0.3 0.95
    """

    # The norm of an orthogonal update is lr times the root of the matrix's rank, whatever the gradient: at the
    # default rate the first model has an update ratio of 0.017.
    usual_update_ratio: ClassVar[float] = 0.05
    usual_limits: ClassVar[Mapping[str, tuple[float, float]]] = {
        "gain": (0.5, 1.7)
    }  # its updates have no direction either
    width_powers: ClassVar[Mapping[str, float]] = {}  # its updates have a norm that transfers (2310.17813)

    lr: float = 0.02
    adamw_ratio: float = 0.3
    momentum: float = 0.95
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, adamw_ratio=self.adamw_ratio, eps=self.eps)
        within(self, lr=(0, 1000), adamw_ratio=(0, 1000), eps=(0, 1), momentum=(0, BELOW_ONE), beta1=(0, BELOW_ONE))
        within(self, beta2=(0, BELOW_ONE), weight_decay=(0, 1000))

    def build(self, net: nn.Module, dtype: torch.dtype = torch.float32) -> list[torch.optim.Optimizer]:
        groups = grouped(net)
        matrices = [p for _, p in groups["matrix"]]
        built: list[torch.optim.Optimizer] = []
        if matrices:
            built.append(
                MatrixMuon(
                    [{"name": "matrix", "params": matrices}],
                    self.lr,
                    self.momentum,
                    self.weight_decay,
                    blocks=row_counts(net, groups["matrix"]),
                    dtype=dtype,
                )
            )
        return [*built, *adam_for_rest(groups, self.lr * self.adamw_ratio, (self.beta1, self.beta2), self.eps)]
