"""Hidden neurons that have fallen silent are removed during training, and what that gains is measured."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from cloche.errors import ModelUnsupported
from cloche.model import HiddenLayer, hidden_layers, keep_neurons
from cloche.part import Part, positive, within
from cloche.train.monitors.callbacks import Callback, Logged
from cloche.train.penalties.activations import watched_activations
from cloche.train.plan import Every

TIMINGS = 5  # passes through a layer, of whose times the median is taken


@dataclass(frozen=True)
class Pruning(Part):
    """Removes hidden neurons every so many steps: those whose score, mean |a| x ||w|| on that step's batch (a the activation,
    w the column that reads it), is below `below` times the largest of their layer.

    The matrices become smaller, and so do the optimiser's state and the spec of the model; where the outer map has a bias,
    the neurons' mean activation is folded into it. keep: least number of neurons left in a layer.

    >>> from cloche.train import ActivationL1, NextToken, Penalised, Pruning
    >>> print(Penalised(NextToken(), (ActivationL1(weight=1e-4),), prune=Pruning(every=50)))
    Penalised(penalties=[ActivationL1(weight=0.0001)], prune=Pruning(every=50))
    """

    every: int = 100
    below: float = 0.01
    keep: int = 1

    def __post_init__(self) -> None:
        positive(self, every=self.every, keep=self.keep)
        within(self, below=(0, 1))

    def check(self, net: nn.Module) -> None:
        """Raises ClocheError if neurons cannot be removed from this network."""
        keep_neurons(net, {})
        if not hidden_layers(net):
            raise ModelUnsupported(
                f"{self} finds no hidden layer in this network: a module with maps `inner` and `outer`."
            )


class Pruner(Callback):
    """`Pruning` in a loop. Each time it logs the sizes of layers to the log "pruning", and an event if any became smaller."""

    name = "pruning"

    def __init__(self, loop: Any, objective: Any, part: Pruning) -> None:
        super().__init__(Every(loop.plan, part.every))
        self.loop, self.objective, self.part = loop, objective, part
        self._batch: Any = None

    def before(self, batch: Any, grad_norm: float) -> None:
        self._batch = batch

    def run(self, step: int) -> Sequence[Logged]:
        if self._batch is None:  # the step was a spike
            return []
        batch, self._batch = self._batch, None
        net, layers = self.loop.net, {layer.name: layer for layer in hidden_layers(self.loop.net)}
        inputs, activations = self._activations(layers, batch)
        scores = {name: a.abs().mean(0) * layers[name].norms() for name, a in activations.items()}
        left = {name: self._kept(score) for name, score in scores.items()}
        left = {name: kept for name, kept in left.items() if len(kept) < layers[name].size}
        found: dict[str, Any] = {"removed": sum(layers[name].size - len(kept) for name, kept in left.items())}
        logged: list[Logged] = []
        if left:
            begin = self._seconds(layers, left, inputs)
            lost = max(_fold(layers[name], kept, scores[name], activations[name]) for name, kept in left.items())
            before = {name: layers[name].size for name in left}
            begun = self.loop.optimizer.resized(net, keep_neurons(net, left))
            end = self._seconds(layers, left, inputs)
            found |= {"lost": lost, "ms_before": 1000 * begin, "ms_after": 1000 * end}
            message = _message(before, {name: layers[name].size for name in left}, lost, begin, end, begun)
            event = {"time": round(self.loop.pace.time, 3), "kind": "prune", "message": message}
            logged.append(("events", event))
        return [("pruning", {**found, "hidden": [layer.size for layer in layers.values()]}), *logged]

    def _kept(self, score: Tensor) -> Tensor:
        kept = (score >= self.part.below * score.max()) & (score > 0)
        if int(kept.sum()) < self.part.keep:
            kept[score.topk(min(self.part.keep, len(score))).indices] = True
        return kept.nonzero()[:, 0]

    @torch.no_grad()
    def _activations(self, layers: dict[str, HiddenLayer], batch: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What each layer was called with, and its activations [token, unit], in a pass over the batch."""
        inputs: dict[str, Any] = {}

        def keep(name: str) -> Callable[..., None]:
            return lambda _, given, named: inputs.__setitem__(name, (given, named))

        hooks = [x.module.register_forward_pre_hook(keep(name), with_kwargs=True) for name, x in layers.items()]
        try:
            with watched_activations(self.loop.net) as hidden, self.loop.autocast():
                self.objective.terms(self.loop.net, batch)
        finally:
            for hook in hooks:
                hook.remove()
        return inputs, {name: a.float() for name, a in hidden().items()}

    def _seconds(self, layers: dict[str, HiddenLayer], names: Any, inputs: dict[str, Any]) -> float:
        """Seconds of a forward and backward pass through these layers."""
        return sum(self._layer_seconds(layers[name].module, *inputs[name]) for name in names)

    def _layer_seconds(self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> float:
        times = []
        x = given[0].detach().requires_grad_()
        for _ in range(TIMINGS):
            begin = _now(x.device)
            with torch.enable_grad(), self.loop.autocast():
                out = module(x, *given[1:], **named)
            out = out[0] if isinstance(out, tuple) else out
            torch.autograd.grad(out, [x, *module.parameters()], torch.ones_like(out))
            times.append(_now(x.device) - begin)
        return median(times)

    def state(self) -> dict[str, Any]:
        return {"hidden": {layer.name: layer.size for layer in hidden_layers(self.loop.net)}}

    def restore(self, state: dict[str, Any]) -> None:
        """Gives the network the sizes that it had; its weights and the optimiser's state are read next."""
        sizes = {layer.name: layer.size for layer in hidden_layers(self.loop.net)}
        left = {name: torch.arange(size) for name, size in state["hidden"].items() if size < sizes.get(name, size)}
        if left:
            self.loop.optimizer.resized(self.loop.net, keep_neurons(self.loop.net, left))


def _now(device: torch.device) -> float:
    """The time in seconds, once the device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.no_grad()
def _fold(layer: HiddenLayer, kept: Tensor, score: Tensor, activation: Tensor) -> float:
    """Adds what the neurons that are removed contribute on average to the outer bias; returns their share of the layer's
    summed scores."""
    gone = torch.ones_like(score, dtype=torch.bool)
    gone[kept] = False
    if layer.outer.bias is not None:
        layer.outer.bias += (layer.outer.weight[:, gone].float() @ activation[:, gone].mean(0)).to(
            layer.outer.bias.dtype
        )
    return float(score[gone].sum() / score.sum().clamp(min=math.ulp(0.0)))


def _message(
    before: dict[str, int], after: dict[str, int], lost: float, begin: float, end: float, begun: list[str]
) -> str:
    sizes = ", ".join(f"{name} {before[name]} -> {after[name]}" for name in before)
    share = sum(after.values()) / sum(before.values())
    removed = sum(before.values()) - sum(after.values())
    said = (
        f"removed {removed} hidden neurons ({sizes}), at most {lost:.2%} of a layer's summed "
        f"scores; forward and backward through these layers takes {1000 * begin:.3g} -> {1000 * end:.3g} ms "
        f"(x{end / begin:.2f} for x{share:.2f} of the neurons)"
    )
    return said + (f"; the optimiser's state of {', '.join(begun)} was reset" if begun else "")
