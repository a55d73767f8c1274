"""Which points are vertices of their convex hull: categories that no mixture of the others can stand for."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 500  # of Frank and Wolfe


def vertices(points: Tensor) -> Tensor:
    """Whether each of points [n, dim] lies outside of the convex hull of the others, [n].

    Frank and Wolfe's algorithm (1956) walks from the others' mean towards each point; a point is outside once all others lie
    on the far side of the plane through it. A point not separated after 500 steps, inside or within a hair of the hull, is
    not a vertex.
    """
    points = points.double() - points.double().mean(0)
    n = len(points)
    others = ~torch.eye(n, dtype=torch.bool, device=points.device)
    near = (points.sum(0) - points) / max(n - 1, 1)  # of each point, the point of the hull reached
    outside = torch.zeros(n, dtype=torch.bool, device=points.device)
    for _ in range(ROUNDS if n > 1 else 0):
        away = near - points  # [n, dim]
        along = away @ points.T - (away * points).sum(1, keepdim=True)  # [n, other], (other - point) . away
        along = along.masked_fill(~others, torch.inf)
        least, which = along.min(1)
        outside |= least > 1e-9 * away.square().sum(1).clamp(min=1e-300)
        step = points[which] - near
        length = (-(away * step).sum(1) / step.square().sum(1).clamp(min=1e-300)).clamp(0, 1)
        near = near + length[:, None] * step
        if bool(outside.all()):
            break
    return outside | (n == 1)
