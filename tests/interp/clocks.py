"""Modular addition, `a b =`: a network whose weights were put there by hand, one that learned it, and its variables."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cloche.glass import Glass
from cloche.interp import Contexts, Subject, Variable
from cloche.model import LM, MLP, Attention, Block, Learned, Network, NoNorm, Stack

P = 23
SMALL = 200.0  # over which numbers are written, so that the circle is most of the stream
TURNS = 5  # of the circle that `adder` writes, over all answers
GROWN_STEPS, TRAINED = 1500, 0.8  # full batches, and the share of all sums that they hold


def spec(width: int, heads: int, hidden: int) -> LM:
    block = Block(Attention(heads), MLP("relu", hidden=hidden), norm=NoNorm())
    return LM(P + 1, width, Stack(1, block), norm=NoNorm(), position=Learned(3))


def sums() -> Tensor:
    """Every prompt [sum, position]."""
    return torch.tensor([[a, b, P] for a in range(P) for b in range(P)])


@dataclass(frozen=True)
class Sums(Variable):
    """The first summand at its token, or the answer at the last."""

    name: str = "answer"

    def contexts(self, subject: Subject, windows: Iterable[Any] | None, count: int, seed: int) -> Contexts:
        order = torch.randperm(P * P, generator=torch.Generator().manual_seed(seed))[:count]
        ids = sums()[order]
        answers = (ids[:, 0] + ids[:, 1]) % P
        values = ids[:, 0] if self.name == "a" else answers
        places = [(0, row, 0 if self.name == "a" else 2) for row in range(len(ids))]

        def answer(point: int, value: Any) -> list[int]:
            return [int(answers[point] - values[point] + value) % P]

        return Contexts([ids], places, values.tolist(), list(range(len(ids))), answer)


@cache
def adder() -> Network:
    """Exact by construction. The stream has the number, a constant, their sum, and a plane. Attention adds the summands, one
    ReLU unit per kink bends the line of sums into the polygon of answers (`TURNS` times round), and the readout is along the
    direction of each answer on it."""
    net = spec(width=8, heads=1, hidden=2 * P).build(seed=0)
    turn = 2 * math.pi * TURNS * torch.arange(2 * P, dtype=torch.float64) / P
    circle = torch.stack([turn.cos(), turn.sin()], 1)  # [sum, 2]
    slopes = circle.diff(dim=0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.embed.weight[:P, 0] = torch.arange(P) / SMALL
        net.embed.weight[P, 1] = 1.0
        mix, mlp = net.layers[0].mix, net.layers[0].map
        mix.qkv.weight[2 * 8 + 0, 0] = (
            3.0  # the value: three times the number, of which attention takes the mean of three
        )
        mix.out.weight[2, 0] = 1.0
        inner, outer = mlp.inner.weight, mlp.outer.weight
        inner[: 2 * P - 1, 2] = SMALL
        inner[: 2 * P - 1, 1] = -torch.arange(2 * P - 1).float()
        outer[3:5, 0] = slopes[0].float()
        outer[3:5, 1 : 2 * P - 1] = slopes.diff(dim=0).T.float()
        inner[2 * P - 1, 1] = 1.0  # a unit that is always on writes the polygon's beginning
        outer[3:5, 2 * P - 1] = circle[0].float()
        net.unembed_weight()[:P, 3:5] = 100 * circle[:P].float()
    return net


@cache
def grown(seed: int = 0) -> Network:
    """One layer trained on four fifths of all sums with weight decay until it adds the others as well."""
    net = spec(width=32, heads=4, hidden=64).build(seed=seed)
    ids = sums()
    wanted = (ids[:, 0] + ids[:, 1]) % P
    train = torch.randperm(P * P, generator=torch.Generator().manual_seed(seed))[: int(TRAINED * P * P)]
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3, weight_decay=1.5, betas=(0.9, 0.98))
    for _ in range(GROWN_STEPS):
        loss = F.cross_entropy(net(ids[train])[:, -1], wanted[train])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


def glass(net: Network, name: str = "") -> Glass:
    return Glass(net, None, "clock", name)
