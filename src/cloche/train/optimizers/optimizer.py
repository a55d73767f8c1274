"""The optimiser of a run: every parameter in the group its part declared for it, and a state that is plain named tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cloche.errors import ResumeRefused
from cloche.train.optimizers.muon import Muon

if TYPE_CHECKING:
    from cloche.model import Network
    from cloche.train.recipe import OptimizerSection


class Optimizer:
    """AdamW on everything, or Muon on the matrices and AdamW on the rest. Only matrices decay.

    The state is saved by parameter name ("blocks.0.mix.qkv.weight/exp_avg"), never by position and never as a pickle.
    """

    def __init__(self, net: Network, section: OptimizerSection, fast: torch.dtype = torch.float32) -> None:
        groups = net.groups()
        self.names: dict[Tensor, str] = {p: name for group in groups.values() for name, p in group}
        matrices = [p for _, p in groups["matrix"]]
        rest = [p for kind in ("embedding", "vector") for _, p in groups[kind]]
        adamw = [{"params": rest, "lr": section.lr, "weight_decay": 0.0}]
        self.parts: list[torch.optim.Optimizer] = []
        if section.kind == "muon":
            blocks = {p: [end - first for first, end in net.blocks(name)] for name, p in groups["matrix"]}
            self.parts.append(
                Muon(matrices, section.matrix_lr, section.momentum, section.weight_decay, blocks=blocks, dtype=fast)
            )
        else:
            adamw.append({"params": matrices, "lr": section.lr, "weight_decay": section.weight_decay})
        betas = (section.beta1, section.beta2)
        self.parts.append(torch.optim.AdamW(adamw, betas=betas, eps=section.eps, fused=True))
        self.peaks = [[group["lr"] for group in part.param_groups] for part in self.parts]

    def set_rate(self, share: float) -> float:
        """Sets every group's learning rate to `share` of its peak; returns AdamW's."""
        for part, peaks in zip(self.parts, self.peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = peak * share
        return float(self.parts[-1].param_groups[0]["lr"])

    def step(self) -> None:
        """One update. A parameter without a gradient is of an expert that no token was sent to: AdamW takes it for zero, and
        Muon, whose updates are all of one size, leaves it where it is."""
        for group in self.parts[-1].param_groups:
            for p in group["params"]:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Every state tensor by "parameter name/state name"."""
        return {
            f"{self.names[p]}/{key}": value.detach().contiguous()
            for part in self.parts
            for p, state in part.state.items()
            for key, value in state.items()
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts `state()` back. Raises ClocheError where the tensors are not this optimiser's."""
        if not tensors:  # saved before the first step
            return
        by_name: dict[str, dict[str, Any]] = {}
        for full, value in tensors.items():
            name, _, key = full.rpartition("/")
            by_name.setdefault(name, {})[key] = value
        mine = set(self.names.values())
        if strange := sorted(set(by_name) - mine) or sorted(mine - set(by_name)):
            raise ResumeRefused(
                f"the optimiser's saved state and this model disagree on {strange[0]!r}; resume with the checkpoint's recipe"
            )
        for part in self.parts:
            expected = {"momentum_buffer"} if isinstance(part, Muon) else {"step", "exp_avg", "exp_avg_sq"}
            for p in (p for group in part.param_groups for p in group["params"]):
                state = by_name[self.names[p]]
                if set(state) != expected or any(v.ndim and v.shape != p.shape for v in state.values()):
                    raise ResumeRefused(
                        f"the saved state of {self.names[p]!r} is another optimiser's; keep the [optimizer] kind of the run"
                    )
                part.state[p] = {key: value.to(p.device) for key, value in state.items()}
