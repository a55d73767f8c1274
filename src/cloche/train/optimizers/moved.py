"""How far the weights moved in an update, from what the optimiser knows of it: nothing is copied."""

from __future__ import annotations

import torch
from torch import Tensor


def moved_by(p: Tensor, direction: Tensor, lr: float, decay: float) -> Tensor:
    """Sum of squares of the update that led to the weights p: p <- (1 - lr decay) p - lr direction. `direction` is
    overwritten if there is a decay.

    The weights before it were (p + lr direction) / (1 - lr decay), so that it is -(lr decay p + lr direction) / (1 - lr decay).
    """
    shrunk = lr * decay
    if shrunk:
        direction.mul_(lr).add_(p, alpha=shrunk)
    return ((1.0 if shrunk else lr) / (1 - shrunk)) ** 2 * squares(direction)


def update_by(p: Tensor, direction: Tensor, rate: float, shrunk: float) -> Tensor:
    """Makes an update, p <- (1 - shrunk) p - rate direction, and returns its sum of squares."""
    direction = direction.to(p.dtype)
    moved = rate**2 * squares(direction)
    if shrunk:
        moved += shrunk**2 * squares(p) + 2 * rate * shrunk * torch.dot(p.reshape(-1), direction.reshape(-1))
    p.mul_(1 - shrunk)
    p.add_(direction, alpha=-rate)
    return moved


def squares(x: Tensor) -> Tensor:
    """Sum of squares, in fp32 at least."""
    return torch.linalg.vector_norm(x, dtype=torch.promote_types(x.dtype, torch.float32)).square()
