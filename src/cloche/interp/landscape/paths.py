"""Losses on paths through the weights of a network, and a curve trained to keep them low."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from cloche.errors import NotFinite
from cloche.model import Network

RATE = 0.02  # of Adam, relative to the root mean square of each parameter

Point = list[Tensor]  # a tensor for each parameter


def weights_of(net: Network) -> Point:
    return [weight.detach() for weight in net.parameters()]


def on_line(a: Point, b: Point, t: float) -> Point:
    """From a (t = 0) to b (t = 1), both met exactly."""
    return [torch.lerp(x, y, t) for x, y in zip(a, b, strict=True)]


def on_curve(a: Point, bend: Point, b: Point, t: float) -> Point:
    """The quadratic Bezier curve from a to b that `bend` pulls to itself."""
    return on_line(on_line(a, bend, t), on_line(bend, b, t), t)


def directions(a: Point, b: Point, seed: int) -> Point:
    """a and a random step from it; each parameter moves as far as from a to b."""
    draw, found = torch.Generator().manual_seed(seed), []
    for x, y in zip(a, b, strict=True):
        step = torch.randn(x.shape, generator=draw, dtype=torch.float32).to(x)
        found.append(x + step * ((y - x).norm() / step.norm()))
    return found


class Path:
    """A copy of a network whose weights are put at points of paths."""

    def __init__(self, net: Network, batches: Sequence[Tensor]) -> None:
        self.net = copy.deepcopy(net).requires_grad_(True)
        self.parameters = list(self.net.parameters())
        self.batches = batches

    @torch.no_grad()
    def put(self, point: Point) -> None:
        for weight, value in zip(self.parameters, point, strict=True):
            weight.copy_(value)

    @torch.no_grad()
    def loss(self, point: Point) -> float:
        """Nats per token on the batches [batch, position] of ids, at these weights."""
        self.put(point)
        total, count = 0.0, 0
        for ids in self.batches:
            total += float(loss_of(self.net, ids, "sum"))
            count += ids[:, 1:].numel()
        return total / count

    def trained(self, a: Point, b: Point, text: Sequence[Tensor], steps: int, seed: int) -> Point:
        """The bend of the curve from a to b after some steps of Adam on the loss of `text`, each at a random point of it, from
        the middle of the line (Garipov et al. 2018)."""
        bend = [middle.clone().requires_grad_() for middle in on_line(a, b, 0.5)]
        sizes = [max(float(x.float().square().mean().sqrt()), 1e-8) for x in a]
        adam = torch.optim.Adam(
            [{"params": [x], "lr": RATE * size} for x, size in zip(bend, sizes, strict=True)], betas=(0.9, 0.99)
        )
        draw = torch.Generator().manual_seed(seed)
        for step in range(steps):
            for group, size in zip(adam.param_groups, sizes, strict=True):
                group["lr"] = RATE * size * (1 - step / steps)
            t = float(torch.rand((), generator=draw))
            self.put(on_curve(a, [x.detach() for x in bend], b, t))
            self.net.zero_grad()
            loss = loss_of(self.net, text[step % len(text)], "mean")
            if not torch.isfinite(loss):
                raise NotFinite(
                    f"The loss on the curve is not finite after {step} steps; give fewer steps, or steps=0."
                )
            loss.backward()
            for x, weight in zip(bend, self.parameters, strict=True):
                x.grad = None if weight.grad is None else weight.grad * (2 * t * (1 - t))
            adam.step()
        return [x.detach() for x in bend]


def loss_of(net: Network, ids: Tensor, reduction: str) -> Tensor:
    """Nats of each next token of ids [batch, position]: their mean or sum, or each [token]."""
    ids = ids.to(net.embed.weight.device)
    logits = net(ids[:, :-1]).flatten(0, 1)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide, ids[:, 1:].flatten(), reduction=reduction)
