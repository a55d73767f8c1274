"""How far the weights moved in an update, from what the optimiser knows of it: nothing is copied."""

from __future__ import annotations

import torch
from torch import Tensor


def moved_by(p: Tensor, direction: Tensor, lr: float, decay: float) -> Tensor:
    """Sum of squares of the update that led to the weights p: p <- (1 - lr decay) p - lr direction. `direction` is
    overwritten if there is a decay.

    The weights before it were (p + lr direction) / (1 - lr decay), so that it is -lr (direction + decay p) / (1 - lr decay).
    """
    shrunk = lr * decay
    if decay:
        direction.add_(p, alpha=decay)
    return (lr / (1 - shrunk)) ** 2 * squares(direction)


def moved_along(p: Tensor, over: Tensor, under: Tensor, rate: float, shrunk: float) -> Tensor:
    """`moved_by` along the direction over / under, p <- (1 - shrunk) p - rate over / under, in fewer passes over the three;
    `under` is overwritten."""
    if not shrunk:
        return rate**2 * squares(torch.div(over, under, out=under))
    return (shrunk / (1 - shrunk)) ** 2 * squares(torch.addcdiv(p, over, under, value=rate / shrunk, out=under))


def update_by(p: Tensor, direction: Tensor, rate: float, decay: float) -> Tensor:
    """Makes an update, p <- p - rate (direction + decay p), and returns its sum of squares. `direction` is overwritten."""
    direction = direction.to(p.dtype, memory_format=torch.contiguous_format)
    if decay:
        direction.add_(p, alpha=decay)
    p.add_(direction, alpha=-rate)
    return rate**2 * squares(direction)


def squares(x: Tensor) -> Tensor:
    """Sum of squares, in fp32 at least."""
    if x.dtype == torch.float32 and x.is_contiguous():
        flat = x.view(-1)
        return torch.dot(flat, flat)  # as exact as the norm, and reads no faster than memory gives
    return torch.linalg.vector_norm(x, dtype=torch.promote_types(x.dtype, torch.float32)).square()
