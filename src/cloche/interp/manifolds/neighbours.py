"""Nearest neighbours by Euclidean distance, by blocks of matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from cloche.errors import SignalsShape

BLOCK = 512  # points whose distances to all others are held at a time
FEW = 16  # neighbours whose distances are computed from differences; of more, from products in fp64
CHUNK = 32  # distances of which first only the least is looked at


def nearest_points(points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Distances and indices [n, count] of the `count` other points nearest to each of points [n, dim], nearest first.

    Candidates come from products in fp32 of centred points; the distances of those found are computed again. Of each row of
    distances the least of every 32 is found first: the `count` nearest are in the chunks with the `count` smallest of these.
    Memory: 512 rows of distances. Raises SignalsShape unless 1 <= count < n.
    """
    n = len(points)
    if not 1 <= count < n:
        raise SignalsShape(
            f"{n} points have no {count} nearest others each; give more points, or ask for fewer neighbours."
        )
    near = (points - points.mean(0)).float()
    padded = -(-n // CHUNK) * CHUNK
    half = torch.full((padded,), torch.inf, device=points.device)
    half[:n] = near.square().sum(1) / 2
    other = torch.zeros(padded, near.shape[1], device=points.device)
    other[:n] = near
    chunks = min(count, padded // CHUNK)
    found = []
    for start in range(0, n, BLOCK):
        block = near[start : start + BLOCK]
        closeness = torch.addmm(
            half, block, other.T, alpha=-1
        )  # half the squared distance, less half this point's norm
        own = torch.arange(len(block), device=points.device)
        closeness[own, own + start] = torch.inf
        grid = closeness.view(len(block), -1, CHUNK)
        best = grid.amin(2).topk(chunks, dim=1, largest=False).indices
        held = grid.gather(1, best[:, :, None].expand(-1, -1, CHUNK)).flatten(1)
        place = held.topk(count, dim=1, largest=False).indices
        found.append(best.gather(1, place // CHUNK) * CHUNK + place % CHUNK)
    indices = torch.cat(found)
    distances = torch.cat([_distances(points, rows, i * BLOCK) for i, rows in enumerate(indices.split(BLOCK))])
    order = distances.argsort(stable=True, dim=1)
    return distances.gather(1, order), indices.gather(1, order)


def _distances(points: Tensor, indices: Tensor, start: int) -> Tensor:
    """Distances [block, count] from points start, start + 1, ... to others."""
    own = points[start : start + len(indices)]
    if indices.shape[1] > FEW:
        centre = points.double().mean(0)
        return torch.cdist(own.double() - centre, points.double() - centre).gather(1, indices)
    return (points[indices] - own[:, None]).double().norm(dim=2)


def purity(indices: Tensor, labels: Tensor) -> float:
    """Share of nearest neighbours [n, count] that have a point's own label [n]."""
    return float((labels[indices] == labels[:, None]).double().mean())
