"""Shampoo: gradients whitened from the left and from the right (Gupta, Koren & Singer, 1802.09568)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cloche.errors import NotFinite
from cloche.part import positive, within
from cloche.train.optimizers.adamw import adam_for_rest, fill_gradients
from cloche.train.optimizers.groups import BELOW_ONE, checked_rows, grouped, row_counts
from cloche.train.optimizers.moved import update_by
from cloche.train.optimizers.optimizer import Optimizer

ADAM_EPS = 1e-8
SMALLEST = 1e-30  # what an empty sum of squares is taken for; its root times a zero gradient is zero


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, rising, and eigenvectors in columns. Raises NotFinite for what has none."""
    for dtype in (matrix.dtype, torch.float64):
        try:
            values, vectors = torch.linalg.eigh(matrix.to(dtype))
            return values.to(matrix.dtype), vectors.to(matrix.dtype)
        except torch.linalg.LinAlgError as error:
            failed = error
    raise NotFinite(
        "The statistics of a matrix have no eigenvectors, so a gradient was not finite; lower the learning rate."
    ) from failed


def inverse_root(matrix: Tensor, power: float, eps: float) -> Tensor:
    """(A + eps * largest eigenvalue)^-power of a symmetric A that has no negative eigenvalues."""
    values, vectors = eigh(matrix)
    values = values.clamp(min=0.0)
    return (vectors * (values + eps * values[-1] + SMALLEST).pow(-power)) @ vectors.mT


class Kronecker(torch.optim.Optimizer):
    """Base of optimisers that know the products G G^T and G^T G of each matrix's gradients G, for two-dimensional parameters.

    A missing gradient counts as zero. every: updates from one decomposition of these products to the next. largest: a side of
    more entries has no product. blocks: row counts of the matrices stacked in a parameter, each of which is one of its own.
    State is at least float32: "left0" is the product of the first block's rows, "right0" that of its columns.
    """

    def __init__(
        self,
        params: list[dict[str, Any]] | list[nn.Parameter],
        settings: dict[str, Any],
        every: int = 10,
        largest: int = 1024,
        blocks: Mapping[Tensor, Sequence[int]] | None = None,
    ) -> None:
        super().__init__(params, {"decoupled_weight_decay": True, **settings})
        self.every, self.largest = every, largest
        self.rows = checked_rows(self, blocks or {})
        self._moved: dict[Tensor, Tensor] = {}

    @abstractmethod
    def direction(self, gradient: Tensor, block: dict[str, Tensor], step: int, group: dict[str, Any]) -> Tensor:
        """What to go along, before the learning rate, from the gradient of one block; it updates the block's state.

        block: "exp_avg" and "exp_avg_sq", views of the block's rows, and of the sides that are not too large "left", "right",
        "left_map" and "right_map": the products and what was made of them."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        fill_gradients(self)
        for group in self.param_groups:
            for p in group["params"]:
                self._update(p, group)

    def _update(self, p: Tensor, group: dict[str, Any]) -> None:
        state, rows = self.state[p], self.rows[p]
        if not state:
            self._begin(p, state, rows)
        state["step"] += 1
        step = int(state["step"])
        moments = zip(state["exp_avg"].split(rows), state["exp_avg_sq"].split(rows), strict=True)
        moved: list[Tensor] = []
        gradients = p.grad.to(state["exp_avg"].dtype).split(rows)  # type: ignore[union-attr]
        for i, (target, gradient, (mean, square)) in enumerate(zip(p.split(rows), gradients, moments, strict=True)):
            names = ("left", "right", "left_map", "right_map")
            block = {name: state[f"{name}{i}"] for name in names if f"{name}{i}" in state}
            update = self.direction(gradient, block | {"exp_avg": mean, "exp_avg_sq": square}, step, group)
            moved.append(update_by(target, update, group["lr"], group["weight_decay"]))
        self._moved[p] = torch.stack(moved).sum()

    def moved(self) -> dict[Tensor, Tensor]:
        """Sum of squares of each parameter's last update."""
        return self._moved

    def _begin(self, p: Tensor, state: dict[str, Tensor], rows: list[int]) -> None:
        dtype = torch.promote_types(p.dtype, torch.float32)
        state["step"] = torch.tensor(0, dtype=torch.int64)
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = torch.zeros_like(p, dtype=dtype, memory_format=torch.contiguous_format)
        for i, count in enumerate(rows):
            for side, size in (("left", count), ("right", p.shape[1])):
                if size <= self.largest:
                    state[f"{side}{i}"] = torch.zeros(size, size, dtype=dtype, device=p.device)
                    state[f"{side}_map{i}"] = torch.eye(size, dtype=dtype, device=p.device)


def accumulate(block: dict[str, Tensor], gradient: Tensor, beta: float) -> None:
    """Takes the gradient into the products: an average over about 1 / (1 - beta) updates, or with beta = 1 the sum."""
    kept, new = (beta, 1 - beta) if beta < 1 else (1.0, 1.0)
    if "left" in block:
        block["left"].addmm_(gradient, gradient.mT, beta=kept, alpha=new)
    if "right" in block:
        block["right"].addmm_(gradient.mT, gradient, beta=kept, alpha=new)


def between(block: dict[str, Tensor], x: Tensor, back: bool = False) -> Tensor:
    """left_map^T x right_map, or left_map x right_map^T to go back; a side without a map stays as it is."""
    if "left_map" in block:
        x = (block["left_map"] if back else block["left_map"].mT) @ x
    if "right_map" in block:
        x = x @ (block["right_map"].mT if back else block["right_map"])
    return x


class MatrixShampoo(Kronecker):
    """Shampoo's update of matrices; see `Shampoo`."""

    def direction(self, gradient: Tensor, block: dict[str, Tensor], step: int, group: dict[str, Any]) -> Tensor:
        beta1, beta2 = group["betas"]
        accumulate(block, gradient, beta2)
        mean = block["exp_avg"].lerp_(gradient, 1 - beta1) / (1 - beta1**step)
        if (step - 1) % self.every == 0:
            sides = [side for side in ("left", "right") if side in block]
            seen = 1 - beta2**step if beta2 < 1 else 1.0
            for side in sides:  # the paper's power: 1 / (2 * the number of sides)
                root = inverse_root(block[side] / seen, 0.5 / len(sides), group["eps"])
                block[f"{side}_map"].copy_(root)
        update = between(block, mean)
        if not group["graft"]:
            return update
        decay = beta2 if beta2 < 1 else 0.999
        square = block["exp_avg_sq"].lerp_(gradient.square(), 1 - decay) / (1 - decay**step)
        adam = mean / (square.sqrt() + ADAM_EPS)
        return update * (adam.norm() / update.norm().clamp(min=SMALLEST))


@dataclass(frozen=True)
class Shampoo(Optimizer):
    """Shampoo on matrices (1802.09568), AdamW on all else at the same rate. Weight decay applies to matrices only.

    For the gradients G of a matrix, L and R are averages of G G^T and G^T G (their sums with beta2 = 1, as in the paper),
    and the update is L^(-1/4) M R^(-1/4) with M the average of G over about 1 / (1 - beta1) updates. graft: it is given the
    norm of Adam's update (2002.11803), so that Adam's rates serve; without, it has the norm of an orthogonal matrix in the
    first step. every: updates from one computation of the roots to the next. eps: share of the largest eigenvalue that is
    added to all. largest: a side of more entries is left as it is, and the other takes the power -1/2. Matrices stacked in
    one parameter, q, k and v, are whitened each by itself.

    >>> import torch
    >>> from cloche.train import Shampoo, Stepper
    >>> net = torch.nn.Linear(2, 2, bias=False)
    >>> before = net.weight.detach().clone()
    >>> optimizer = Stepper(net, Shampoo(lr=1.0, beta1=0.0, weight_decay=0.0, graft=False))
    >>> net.weight.grad = torch.tensor([[0.0, 3.0], [2.0, 0.0]])
    >>> optimizer.step()
    >>> (before - net.weight).round(decimals=3)  # the singular values 3 and 2 are both 1 now
    tensor([[0., 1.],
            [1., 0.]], grad_fn=<RoundBackward1>)
    """

    usual_update_ratio: ClassVar[float] = 0.03
    usual_limits: ClassVar[Mapping[str, tuple[float, float]]] = {"gain": (0.5, 2.2)}

    lr: float = 3e-3
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-6
    weight_decay: float = 0.1
    every: int = 10
    graft: bool = True
    largest: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, eps=self.eps, every=self.every, largest=self.largest)
        within(self, lr=(0, 1000), eps=(0, 1), beta1=(0, BELOW_ONE), beta2=(0, 1), weight_decay=(0, 1000))

    def build(self, net: nn.Module, dtype: torch.dtype = torch.float32) -> list[torch.optim.Optimizer]:
        groups = grouped(net)
        settings = {"lr": self.lr, "betas": (self.beta1, self.beta2), "eps": self.eps, "graft": self.graft}
        held = [{"name": "matrix", "params": [p for _, p in groups["matrix"]], "weight_decay": self.weight_decay}]
        rows = row_counts(net, groups["matrix"])
        made = [MatrixShampoo(held, settings, self.every, self.largest, rows)] if groups["matrix"] else []
        return [*made, *adam_for_rest(groups, self.lr, (self.beta1, min(self.beta2, 0.999)))]
