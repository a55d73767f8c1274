"""An optimiser whose knobs are turned by a learned controller."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cloche.errors import ArgumentInvalid, ResumeRefused
from cloche.part import within
from cloche.train.controller.controller import KNOBS, SLOTS, Controller, Seen, log_steps, observe, turn, variation
from cloche.train.optimizers.groups import grouped
from cloche.train.optimizers.optimizer import Optimizer

PACKAGED = Path(__file__).with_name("adam.safetensors")


class SteeredOptimizer(torch.optim.Optimizer):
    """A controller's update rule on groups of parameters. Before each step, `observe` has to be called.

    A group's state (signals, and the controller's weights, which a resumed run compares with its file) is kept beside that of
    its first parameter. `factor` of a group multiplied its "lr" in the last step.
    """

    def __init__(self, groups: list[dict[str, Any]], controller: Controller) -> None:
        super().__init__(groups, {"factor": 1.0})
        self.controller, self.weights, self.knobs = controller, controller.weights, controller.start()
        self._seen: tuple[float, float, float] | None = None

    def observe(self, loss: float, progress: float, clipped: float = 1.0) -> None:
        """What the next step sees: the loss that its gradients are of, the share of the run that is done, and by what the
        gradients were multiplied, whose norms are seen as they were before."""
        self._seen = loss, progress, clipped

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if self._seen is None:
            raise ArgumentInvalid(
                "A learned controller sees the loss: call Stepper.step(loss, progress), not step() alone."
            )
        (loss, progress, clipped), self._seen = self._seen, None
        measured = [self._measure(group["params"]) for group in self.param_groups]
        norms, cosines = (torch.stack(values).float().cpu() for values in zip(*measured, strict=True))
        state = torch.stack([self._signals(group["params"][0]) for group in self.param_groups])
        state, features = observe(state, Seen(torch.tensor(loss), norms / clipped, cosines), progress)
        state, knobs = turn(state, log_steps(self.weights, features), self.knobs)
        for number, group in enumerate(self.param_groups):
            factor, momentum, decay = (float(knob[number]) for knob in knobs)
            group["factor"], group["momentum"], group["decay"] = factor, momentum, decay
            group["variation"] = dict(zip(KNOBS, variation(state[number]).tolist(), strict=True))
            self.state[group["params"][0]]["signals"] = state[number].clone()
            for p in group["params"]:
                turned = (group["lr"] * factor, momentum, decay if group["decays"] else 0.0)
                rule = {key: value for key, value in self.state[p].items() if key not in ("signals", "controller")}
                self.controller.rule.update(p, p.grad, rule, *(torch.tensor(x, device=p.device) for x in turned))
                self.state[p] |= rule

    def figures(self) -> dict[str, float]:
        """Momentum and weight decay of each group in the last step, and how much its learning rate and momentum varied so far:
        `variation_<knob>_<group>` near zero means that a constant would have done."""
        found: dict[str, float] = {}
        for group in self.param_groups:
            name = group["name"]
            found |= {f"momentum_{name}": group["momentum"]} if "momentum" in group else {}
            found |= {f"decay_{name}": group["decay"]} if group["decays"] and "decay" in group else {}
            found |= {
                f"variation_{knob}_{name}": value
                for knob, value in group.get("variation", {}).items()
                if knob != "decay"
            }
        return found

    def _measure(self, params: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
        """Norm of a group's gradient and its cosine with the one before, which it replaces."""
        now, dot, before = (torch.zeros((), device=params[0].device) for _ in range(3))
        for p in params:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            previous = self.state[p].get("previous")
            now += p.grad.float().square().sum()
            if previous is None:
                self.state[p]["previous"] = p.grad.clone()
                continue
            dot += (p.grad * previous).float().sum()
            before += previous.float().square().sum()
            previous.copy_(p.grad)
        return now.sqrt(), dot / (now * before).sqrt().clamp(min=1e-30)

    def _signals(self, first: nn.Parameter) -> Tensor:
        state = self.state[first]
        if "signals" not in state:
            state["signals"], state["controller"] = torch.zeros(SLOTS), self.weights.clone()
        if not torch.equal(state["controller"].cpu(), self.weights):
            raise ResumeRefused(
                "The checkpoint was trained with another controller than the one in the file; restore that file."
            )
        return state["signals"].cpu()


@dataclass(frozen=True)
class Learned(Optimizer):
    """An optimiser steered by a learned controller: from the trend of the loss, the gradient's norm, its cosine with the one
    before, and the progress of the run, a small network changes the learning rate, momentum and weight decay of each group at
    every step (after VeLO, 2211.09760, whose network is far larger and sets every parameter's update).

    path: a file of `Controller.save`; "" is the one that comes with cloche, which steers Adam's steps (made by
    bench/train/learned_controller.py). sha256: of that file; "" accepts any. lr: where the learning rate starts; the schedule
    multiplies it as well. Weight decay applies to matrices only. Metrics have the rates as they were used.

    >>> import torch
    >>> from cloche.train import Learned, Stepper
    >>> torch.manual_seed(0)
    <torch._C.Generator object at ...>
    >>> net, x = torch.nn.Linear(4, 2), torch.randn(64, 4)
    >>> optimizer, losses = Stepper(net, Learned(lr=0.1)), []
    >>> for step in range(60):
    ...     loss = (net(x) - x[:, :2]).square().mean()
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step(loss.item(), progress=step / 60)
    ...     losses.append(loss.item())
    >>> losses[-1] < 1e-3 * losses[0]
    True
    """

    usual_update_ratio: ClassVar[float] = 0.01
    reads_files: ClassVar[bool] = True

    lr: float = 0.03
    path: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, lr=(0, 1000))

    def build(self, net: nn.Module, dtype: torch.dtype = torch.float32) -> list[torch.optim.Optimizer]:
        controller = Controller.load(self.path or PACKAGED, self.sha256)
        held = [(kind, [p for _, p in named]) for kind, named in grouped(net).items() if named]
        groups = [{"name": kind, "params": params, "lr": self.lr, "decays": kind == "matrix"} for kind, params in held]
        return [SteeredOptimizer(groups, controller)]
