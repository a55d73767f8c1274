"""Similarity of two representations of the same rows: centred kernel alignment, and shared nearest neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from cloche.interp.manifolds.neighbours import nearest_points


def centred_grams(layers: list[Tensor]) -> Tensor:
    """Gram matrices of several representations [n, width] of the same n rows, centred without bias and scaled to norm one:
    [layer, n * n]. The product of two rows is their debiased linear CKA.

    Centring leaves the diagonal out (Székely and Rizzo 2014, 1310.2926), so that independent rows give 0 on average at
    any n and width; the plain estimate (Kornblith et al. 2019, 1905.00414) approaches 1 as the width grows beyond n.
    """
    return torch.stack([_centred(rows).flatten() for rows in layers])


def _centred(rows: Tensor) -> Tensor:
    rows = rows.double() - rows.double().mean(0)
    rows = rows / rows.norm().clamp(min=torch.finfo(torch.float64).tiny)
    gram = (rows @ rows.T).fill_diagonal_(0)
    n = len(gram)
    sums = gram.sum(1)
    gram = gram - (sums[:, None] + sums[None]) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
    gram.fill_diagonal_(0)
    return gram / gram.norm().clamp(min=torch.finfo(torch.float64).tiny)


def cka(a: Tensor, b: Tensor) -> Tensor:
    """Debiased linear CKA [layer of a, layer of b] of two results of `centred_grams`."""
    return a @ b.T


def memberships(layers: list[Tensor], count: int) -> Tensor:
    """Whether each row is among the `count` of the largest cosine to each other, [layer, n * n] of 0 and 1. The product of two
    rows, over n * count, is the share of neighbours in common."""
    n = len(layers[0])
    near = [nearest_points(torch.nn.functional.normalize(rows.float(), dim=1), count)[1].cpu() for rows in layers]
    return torch.stack([torch.zeros(n, n).scatter_(1, each, 1.0).flatten() for each in near])


def shared_neighbours(a: Tensor, b: Tensor, count: int) -> Tensor:
    """Share of nearest neighbours in common [layer of a, layer of b] of two results of `memberships` (Huh et al. 2024,
    2405.07987)."""
    return a @ b.T / (a.shape[1] ** 0.5 * count)


def permuted(square: Tensor, order: Tensor) -> Tensor:
    """Rows [layer, n * n] as they are if the n tokens come in another order."""
    n = len(order)
    return square.view(-1, n, n)[:, order][:, :, order].flatten(1)
