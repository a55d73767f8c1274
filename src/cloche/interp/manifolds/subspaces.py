"""How alike two subspaces, or two shapes, are."""

from __future__ import annotations

import torch
from torch import Tensor

from cloche.errors import SignalsShape


def principal_angles(a: Tensor, b: Tensor) -> Tensor:
    """Principal angles in degrees, smallest first, between the subspaces that the rows of a [k, dim] and b [l, dim] span:
    min(k, l) of them (Björck and Golub 1973). Small angles come from the sine, which loses no digits there."""
    if a.shape[1] != b.shape[1]:
        raise SignalsShape(
            f"One subspace is of {a.shape[1]} dimensions and the other of {b.shape[1]}; compare sites of one width."
        )
    p, q = (torch.linalg.qr(rows.double().T).Q for rows in ((a, b) if len(a) >= len(b) else (b, a)))
    cosines = torch.linalg.svdvals(p.T @ q).clamp(max=1)
    sines = torch.linalg.svdvals(q - p @ (p.T @ q)).flip(0).clamp(max=1)
    return torch.where(cosines > 0.7, sines.asin(), cosines.acos()).rad2deg()


def overlap(a: Tensor, b: Tensor) -> float:
    """Mean squared cosine of the principal angles: 1 if one subspace contains the other; of random subspaces the larger
    one's dimension over the dimension of the space."""
    return float(principal_angles(a, b).deg2rad().cos().square().mean())


def shape_correlation(a: Tensor, b: Tensor) -> float:
    """Correlation of points a [n, k] with points b [n, l] after the best rotation, reflection and scale (orthogonal
    Procrustes, Schönemann 1966): the nuclear norm of a^T b over the product of their norms, both centred. 1 is the same
    shape; 0 if one of them is a single point."""
    if len(a) != len(b):
        raise SignalsShape(f"One shape has {len(a)} points and the other {len(b)}; give points that correspond.")
    a, b = (rows.double() - rows.double().mean(0) for rows in (a, b))
    norms = float(a.norm() * b.norm())
    return float(torch.linalg.svdvals(a.T @ b).sum()) / norms if norms > 0 else 0.0
