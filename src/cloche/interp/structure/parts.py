"""The parts of a network with their parameters, bytes and operations; each weight and operation is counted once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from cloche.model import Network

TRAINING = 3  # forward, and twice that backward


@dataclass(frozen=True)
class PartCost:
    """A part: its iteration of the body (None outside), its name there, its settings as text, parameters that no part before
    it has, their bytes, and forward operations per token."""

    layer: int | None
    name: str
    settings: str
    parameters: int
    bytes: int
    flops: float


def part_costs(net: Network, length: int) -> list[PartCost]:
    """The parts in the order of the pass. Their parameters add up to the model's, and three times their operations to
    `net.flops_per_token(length)`."""
    count = _Count(net, length)
    fields = {"position": net.spec.position, "final_norm": net.spec.norm, "unembed": net.spec.head}
    rows: list[PartCost] = []
    for name, module in net.named_children():
        if name == "body":
            for layer in range(len(net.layers)):
                rows += count.layer(layer)
            own = count.row(None, name, type(net.spec.body).__name__, module, 0.0)  # what its blocks do not hold
            rows += [own] if own.parameters else []
        else:
            tied = name == "unembed" and net.spec.tied
            flops = 2.0 * net.unembed_weight().numel() if tied else count.products(module)
            settings = type(fields[name]).__name__ if name in fields else f"{net.spec.vocab:,} tokens"
            rows.append(count.row(None, name, settings, module, flops))
    return rows


class _Count:
    """Counts each parameter once."""

    def __init__(self, net: Network, length: int) -> None:
        self.net, self.length = net, length
        self.seen: set[int] = set()
        declared = net.declarations()
        self.matrices = {id(p) for name, p in net.named_parameters() if declared[name].group == "matrix"}

    def products(self, module: nn.Module) -> float:
        """Operations of one use of every matrix of a module."""
        return 2.0 * sum(p.numel() for p in module.parameters() if id(p) in self.matrices)

    def row(self, layer: int | None, name: str, settings: str, module: nn.Module, flops: float) -> PartCost:
        new = [p for p in module.parameters() if id(p) not in self.seen]
        self.seen |= {id(p) for p in new}
        numbers, size = sum(p.numel() for p in new), sum(p.numel() * p.element_size() for p in new)
        return PartCost(layer, name, settings, numbers, size, flops)

    def layer(self, layer: int) -> Iterator[PartCost]:
        """The modules of a block that have parameters, and what it takes besides."""
        block, width = self.net.layers[layer], self.net.spec.width
        left = self.net.body.flops_per_token(layer, self.length)
        for name, module in block.named_children():
            if next(module.parameters(), None) is None:
                continue  # such as NoNorm's
            part, flops = _part(block, name), self.products(module)
            if name == "map":
                flops -= 2.0 * part.idle_weights(width)
            elif name == "mix":
                flops += part.flops_per_token(width, self.length)
            left -= flops
            yield self.row(layer, name, str(part), module, flops)
        rest = self.row(layer, "rest", type(block).__name__.strip("_"), block, left)
        if rest.parameters or abs(left) > 0.5:
            yield rest


def _part(block: Any, name: str) -> Any:
    """The settings of a block's module."""
    field = name if name in ("mix", "map") else "post" if name.endswith("_post") else "norm"
    return getattr(getattr(block, "part", None), field, name)
