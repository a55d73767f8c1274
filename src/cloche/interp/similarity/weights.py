"""Which weights of a model moved, how far, and in how many directions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cloche.model import Network

DIRECTIONS = 20  # parameters, those that moved most, whose change is decomposed
LEADING = 8  # singular directions that the approximate decomposition looks for
ITERATIONS = 4


@dataclass(frozen=True)
class Moved:
    """How a parameter differs between two models: its iteration of the body (None outside) and part, |b - a| / |a| in Frobenius
    norm, the cosine of a and b, and of the matrices that moved most the share of the squared change in its leading singular
    direction, and that direction in the stream [width] where the matrix writes into the stream or reads it."""

    name: str
    layer: int | None
    part: str
    relative: float
    cosine: float
    leading: float | None = None
    direction: Tensor | None = None


def moved(a: Network, b: Network) -> list[Moved]:
    """Every parameter of two networks of the same tree, the one that moved most first."""
    other, places = dict(b.named_parameters()), _places(a)
    found = []
    for name, weight in a.named_parameters():
        x, change = weight.detach().double(), other[name].detach().double() - weight.detach().double()
        size, y = float(x.norm()), x + change
        relative = float(change.norm()) / size if size else float(change.norm() > 0)
        cosine = float((x * y).sum() / (x.norm() * y.norm()).clamp(min=torch.finfo(torch.float64).tiny))
        layer, part = places.get(id(weight), (None, name.split(".")[0]))
        found.append(Moved(name, layer, part, relative, cosine))
    found.sort(key=lambda each: -each.relative)
    mine, declared = dict(a.named_parameters()), a.declarations()
    return [
        _decomposed(each, mine[each.name], other[each.name], declared[each.name].shard == "columns")
        if i < DIRECTIONS and each.relative > 0
        else each
        for i, each in enumerate(found)
    ]


def _places(net: Network) -> dict[int, tuple[int, str]]:
    """The iteration that first uses each parameter, and the part of its block, by the parameter's id."""
    found: dict[int, tuple[int, str]] = {}
    for layer, block in enumerate(net.layers):
        for name, module in block.named_children():
            for parameter in module.parameters():
                found.setdefault(id(parameter), (layer, name))
    return found


@torch.no_grad()
def _decomposed(each: Moved, a: Tensor, b: Tensor, writes: bool) -> Moved:
    """With its leading direction; `writes`: whether the matrix writes into the stream (it is split by columns)."""
    if a.ndim != 2 or min(a.shape) < 2:
        return each
    change = b.detach().float() - a.detach().float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # svd_lowrank takes no generator
        u, s, v = torch.svd_lowrank(change, q=min(LEADING, *change.shape), niter=ITERATIONS)
    share = float(s[0] ** 2 / change.square().sum().clamp(min=torch.finfo(torch.float32).tiny))
    direction = u[:, 0] if writes else v[:, 0]
    return replace(each, leading=min(share, 1.0), direction=direction)


def by_part(changes: list[Moved], a: Network, b: Network) -> Iterator[tuple[int | None, str, float]]:
    """(iteration, part, |b - a| / |a|) over all parameters of each part."""
    squares: dict[tuple[int | None, str], list[float]] = {}
    one, two = dict(a.named_parameters()), dict(b.named_parameters())
    for each in changes:
        x, y = one[each.name].detach().double(), two[each.name].detach().double()
        sums = squares.setdefault((each.layer, each.part), [0.0, 0.0])
        sums[0] += float((y - x).square().sum())
        sums[1] += float(x.square().sum())
    for (layer, part), (change, size) in squares.items():
        yield layer, part, (change / size) ** 0.5 if size else float(change > 0)
