"""The mean curve of a variable, and how it bends, from split halves so that noise does not lengthen it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SPLITS = 10  # random halves that estimates are averaged over
REDRAWN = 100  # times at most, until both halves have every value

Halves = list[tuple[Tensor, Tensor]]  # mean curves [value, dim] of two disjoint halves of the contexts, several times


def mean_curve(points: Tensor, codes: Tensor, count: int) -> Tensor:
    """Mean [count, dim] of points [n, dim] by their value, codes [n] from 0 to count - 1; zero where there is none."""
    sums = torch.zeros(count, points.shape[1], dtype=torch.float64, device=points.device)
    sums.index_add_(0, codes, points.double())
    return sums / torch.bincount(codes, minlength=count).clamp(min=1)[:, None]


def half_curves(points: Tensor, codes: Tensor, groups: Tensor, splits: int = SPLITS, seed: int = 0) -> Halves:
    """Mean curves of two disjoint halves of the contexts, `splits` times. Points of one group [n] (one text) stay together, and
    halves that lack a value are drawn again; if each is a group of its own, the points of each value are halved."""
    draw = torch.Generator().manual_seed(seed)
    count = int(codes.max()) + 1
    kinds, group = groups.unique(return_inverse=True)
    found = []
    for _ in range(splits):
        for _ in range(REDRAWN):
            place = torch.randperm(len(kinds), generator=draw).to(points.device)[group]
            sides = codes[place % 2 == 0], codes[place % 2 == 1]
            if len(kinds) == len(points) or all(len(side.unique()) == count for side in sides):
                break
        if len(kinds) == len(points):
            order = (codes * len(points) + place).argsort()
            place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
            place = place - _starts(codes, count)[codes]
        first = place % 2 == 0
        found.append(tuple(mean_curve(points[side], codes[side], count) for side in (first, ~first)))
    return found  # type: ignore[return-value]


def _starts(codes: Tensor, count: int) -> Tensor:
    sizes = torch.bincount(codes, minlength=count)
    return sizes.cumsum(0) - sizes


def explained_share(points: Tensor, codes: Tensor, halves: Halves) -> float:
    """Share of the variance of points [n, dim] that lies between the means of their values, codes [n]: of independent halves,
    so that it is 0 on average where the variable has no effect. A value counts as often as it occurs."""
    total = float((points.double() - points.double().mean(0)).square().sum(1).mean())
    often = torch.bincount(codes, minlength=len(halves[0][0])).to(points.device, torch.float64) / len(points)
    between = [float(often @ ((a - often @ a) * (b - often @ b)).sum(1)) for a, b in halves]
    return sum(between) / len(between) / total if total > 0 else 0.0


@dataclass(frozen=True)
class Bend:
    """How a curve bends: `arc` and `chord` in units of the site, and the usual `turning` angle between successive steps in
    degrees; a number that noise leaves undefined is NaN."""

    arc: float
    chord: float
    turning: float

    @property
    def ratio(self) -> float:
        """Arc over chord: 1 for a straight line, pi / 2 for half a circle."""
        return self.arc / self.chord if self.chord > 0 else float("nan")


def bend(halves: Halves) -> Bend:
    """Turning angle, arc and chord of the mean curve from pairs of independent halves: every product is of one half with the
    other, so that noise, which lengthens a measured arc and turns it at every step, averages out. The cosine of `turning` is
    the mean product of successive steps over their mean squared length."""
    lengths = torch.stack([(a.diff(dim=0) * b.diff(dim=0)).sum(1) for a, b in halves]).mean(0)  # squared, [step]
    turns = torch.stack([_products(a.diff(dim=0), b.diff(dim=0)) for a, b in halves]).mean(0)  # [step - 1]
    chord = torch.stack([(a[-1] - a[0]) @ (b[-1] - b[0]) for a, b in halves]).mean()
    size = float((lengths[:-1] + lengths[1:]).sum()) / 2
    cosine = float(turns.sum()) / size if size > 0 else float("nan")
    turning = math.degrees(math.acos(max(-1.0, min(1.0, cosine)))) if size > 0 else float("nan")
    arc = float(lengths.clamp(min=0).sqrt().sum())
    return Bend(arc, float(chord.clamp(min=0).sqrt()), turning)


def _products(a: Tensor, b: Tensor) -> Tensor:
    return ((a[:-1] * b[1:]).sum(1) + (b[:-1] * a[1:]).sum(1)) / 2
