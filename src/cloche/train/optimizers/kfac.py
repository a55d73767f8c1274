"""K-FAC: the natural gradient with a Kronecker-factored Fisher matrix (Martens and Grosse, 1503.05671)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cloche.errors import ModelUnsupported, NotSolved
from cloche.part import positive, within
from cloche.train.optimizers.adamw import FilledAdamW
from cloche.train.optimizers.groups import BELOW_ONE, grouped
from cloche.train.optimizers.moments import Moments, watched
from cloche.train.optimizers.moved import update_by
from cloche.train.optimizers.optimizer import Optimizer

LARGEST_PI = 1e3  # of the share of damping that goes to the inputs, and one over the least
BETAS = 0.9, 0.95  # of AdamW on the rest


def inverses(inputs: Tensor, outputs: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """(A + pi sqrt(damping) I)^-1 and (G + sqrt(damping) / pi I)^-1, computed in float64, with pi^2 the ratio of the mean
    eigenvalues of A and G (1503.05671, section 6.3)."""
    ratio = mean_eigenvalue(inputs) / max(mean_eigenvalue(outputs), 1e-300)
    pi = min(max(math.sqrt(ratio), 1 / LARGEST_PI), LARGEST_PI)
    root = math.sqrt(damping)
    return _inverse(inputs, pi * root), _inverse(outputs, root / pi)


def mean_eigenvalue(moment: Tensor) -> float:
    return moment.diagonal().double().mean().item()


def _inverse(moment: Tensor, damping: float) -> Tensor:
    damped = moment.double()
    damped.diagonal().add_(damping)
    lower, failed = torch.linalg.cholesky_ex(damped)
    if failed.any() or not torch.isfinite(lower).all():
        raise NotSolved(
            "KFAC cannot invert the second moments of a layer, which are not finite or too near singular; raise "
            "optimizer.damping or lower optimizer.lr."
        )
    return torch.cholesky_inverse(lower).to(moment.dtype)


class MatrixKFAC(torch.optim.Optimizer):
    """K-FAC on the linear maps whose moments it is given, by the name of the weight (see `KFAC`).

    State of each weight: `inputs` (A), `outputs0`, `outputs1`, ... (G of each block of rows), `measured` (how often),
    `step` and `momentum_buffer`. Inverses are not saved: they follow from it.
    """

    def __init__(
        self,
        params: list[dict[str, Any]],
        layers: Mapping[str, Moments],
        damping: float = 0.03,
        decay: float = 0.8,
        every: int = 10,
        momentum: float = 0.5,
        trust: float = 0.003,
    ) -> None:
        super().__init__(params, {"lr": 0.1, "weight_decay": 0.0, "momentum": momentum})
        self.layers, self.damping, self.decay, self.every, self.trust = dict(layers), damping, decay, every, trust
        self._inverses: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._moved: dict[Tensor, Tensor] = {}
        self._inverted: list[Tensor] = []  # what they are the inverses of

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets gradients and what was measured with them. Statistics are taken at the first `every` steps, and then at
        each `every`-th."""
        super().zero_grad(set_to_none)
        # One clock for all: an expert that missed a step is measured when the others are, and also the first time that it
        # has a gradient.
        step = max((int(self.state[m.weight].get("step", 0)) for m in self.layers.values()), default=0)
        for moments in self.layers.values():
            known = "inputs" in self.state[moments.weight]
            moments.wanted = step < self.every or step % self.every == 0 or not known
            moments.clear()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every layer that has a gradient."""
        self._moved = {}
        self._measure()
        settings = {p: group for group in self.param_groups for p in group["params"]}
        found: list[tuple[Tensor, Tensor]] = []  # parameters and their natural gradients
        change = 0.0  # 2 x the KL divergence of the step, to second order
        for name, moments in self.layers.items():
            weight, bias = moments.weight, moments.bias
            if weight.grad is None:
                continue
            gradient = weight.grad if bias is None else torch.cat([weight.grad, bias.grad[:, None]], 1)  # type: ignore[index]
            natural = self._natural(name, gradient.to(moments.dtype))
            own = [(weight, natural[:, : weight.shape[1]])]
            own += [] if bias is None else [(bias, natural[:, -1])]
            found += own
            change += sum(settings[p]["lr"] ** 2 * float((v * p.grad).sum()) for p, v in own if p.grad is not None)
        scale = 1.0 if change <= self.trust else math.sqrt(self.trust / change)
        for p, natural in found:
            group, state = settings[p], self.state[p]
            state.setdefault("step", torch.tensor(0.0)).add_(1)
            buffer = state.setdefault("momentum_buffer", torch.zeros_like(p))
            buffer.lerp_(scale * natural.to(p.dtype), 1 - group["momentum"])
            self._moved[p] = update_by(p, buffer.clone(), group["lr"], group["weight_decay"])

    def moved(self) -> dict[Tensor, Tensor]:
        """Sum of squares of each parameter's last update."""
        return self._moved

    def _measure(self) -> None:
        """Moves the running averages by what was measured since `zero_grad`, and inverts them if they have changed."""
        for moments in self.layers.values():
            if not moments.rows:
                continue
            state = self.state[moments.weight]
            measured = state.setdefault("measured", torch.tensor(0.0))
            measured += 1
            share = (1 - self.decay) / (1 - self.decay ** float(measured))  # 1 at the first
            # The loss is a mean over the rows: the gradient of one row's own loss is `rows` times what was measured.
            now = {"inputs": moments.inputs / moments.rows}
            now |= {f"outputs{i}": total * moments.rows for i, total in enumerate(moments.outputs)}
            for key, value in now.items():
                state[key] = torch.lerp(state[key], value, share) if key in state else value
            moments.clear()
        held = [self.state[m.weight]["inputs"] for m in self.layers.values() if "inputs" in self.state[m.weight]]
        if len(held) != len(self._inverted) or any(a is not b for a, b in zip(held, self._inverted, strict=True)):
            self._inverted, self._inverses = held, self._inverted_factors()

    def factors(self, moments: Moments) -> list[tuple[Tensor, Tensor]]:
        """The running averages (A, G) of each block of a layer; none before it was measured."""
        state = self.state[moments.weight]
        if "inputs" not in state:
            return []
        return [(state["inputs"], state[f"outputs{i}"]) for i in range(len(moments.blocks))]

    def _inverted_factors(self) -> dict[str, list[tuple[Tensor, Tensor]]]:
        factors = {name: self.factors(moments) for name, moments in self.layers.items()}
        every = [pair for pairs in factors.values() for pair in pairs]
        trace = sum(mean_eigenvalue(a) * mean_eigenvalue(g) * len(a) * len(g) for a, g in every)
        damping = self.damping * trace / sum(len(a) * len(g) for a, g in every)
        return {name: [inverses(a, g, damping) for a, g in pairs] for name, pairs in factors.items()}

    def _natural(self, name: str, gradient: Tensor) -> Tensor:
        """G^-1 gradient A^-1, block by block of rows."""
        if not self._inverses.get(name):
            raise ModelUnsupported(
                f"KFAC has measured no input of {name}, which has a gradient: its layer is not called as a module; call it, or "
                "train with another optimizer."
            )
        blocks = gradient.split(self.layers[name].blocks)
        return torch.cat([g @ block @ a for (a, g), block in zip(self._inverses[name], blocks, strict=True)])


@dataclass(frozen=True)
class KFAC(Optimizer):
    """K-FAC (Martens and Grosse, 1503.05671) on the linear maps inside the body, AdamW on all else (embeddings, head,
    gains) at `adamw_ratio` times `lr`.

    The Fisher matrix of each map y = x W^T + b is taken as the Kronecker product of A, the mean of x x^T, and G, the mean of
    g g^T for the gradient g of a row's loss in y; q, k and v, and gate and up, have a G each. Rows are all positions of a
    batch (K-FAC-expand of 2311.00636), over all its micro-batches; where a map is applied several times, or an expert to a
    few of them, each row that it sees counts as one. The gradients are those of the loss that is minimised, so that this is
    the empirical Fisher matrix, which vanishes with a loss that reaches zero (Kunstner et al., 1905.12558). The update is
    G^-1 dW A^-1.

    damping: what is added to the matrix's diagonal, as a share of its mean eigenvalue over all layers; split between A and G
    with the paper's pi (section 6.3). factor_decay: of the running averages of A and G. every: steps between two
    measurements and inversions, which are also made at each of the first `every` steps. trust: the largest lr^2 v^T F v of a
    step v, twice the KL divergence that it makes; a longer one is scaled down (1e30: none is). Weight decay applies to
    matrices only.

    >>> import torch
    >>> from cloche.train import KFAC, Stepper
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    >>> optimizer = Stepper(net, KFAC(lr=0.1))
    >>> net(torch.randn(8, 4)).square().mean().backward()
    >>> optimizer.step()
    >>> {name: tuple(value.shape) for name, value in optimizer.state().items() if "puts" in name and name[0] == "0"}
    {'0.weight/inputs': (5, 5), '0.weight/outputs0': (3, 3)}
    """

    usual_update_ratio: ClassVar[float] = 0.2

    lr: float = 0.1
    adamw_ratio: float = 0.06
    damping: float = 0.03
    factor_decay: float = 0.8
    every: int = 10
    momentum: float = 0.5
    trust: float = 0.003
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, adamw_ratio=self.adamw_ratio, damping=self.damping, every=self.every, trust=self.trust)
        within(self, lr=(0, 1000), adamw_ratio=(0, 1000), factor_decay=(0, BELOW_ONE), momentum=(0, BELOW_ONE))
        within(self, weight_decay=(0, 1000))

    def build(self, net: nn.Module, dtype: torch.dtype = torch.float32) -> list[torch.optim.Optimizer]:
        layers = watched(net)
        weights = [moments.weight for moments in layers.values()]
        biases = [moments.bias for moments in layers.values() if moments.bias is not None]
        inside = {id(p) for p in [*weights, *biases]}
        others = {kind: [p for _, p in named if id(p) not in inside] for kind, named in grouped(net).items()}
        named = [
            {"name": "matrix", "params": weights, "lr": self.lr, "weight_decay": self.weight_decay},
            {"name": "bias", "params": biases, "lr": self.lr, "weight_decay": 0.0},
        ]
        held = [group for group in named if group["params"]]
        built: list[torch.optim.Optimizer] = []
        if held:
            how = (self.damping, self.factor_decay, self.every, self.momentum, self.trust)
            built.append(MatrixKFAC(held, layers, *how))
        lr = self.lr * self.adamw_ratio
        named = [
            {"name": "rest", "params": others["embedding"] + others["vector"], "lr": lr, "weight_decay": 0.0},
            {"name": "rest_matrix", "params": others["matrix"], "lr": lr, "weight_decay": self.weight_decay},
        ]
        if held := [group for group in named if group["params"]]:
            built.append(FilledAdamW(held, betas=BETAS, fused=True))
        return built
