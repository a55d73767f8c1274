"""Orthogonal matching pursuit of many signals at once, in torch, without a Gram: one matrix product a step.

Each signal keeps an orthonormal basis of its chosen atoms (Gram-Schmidt, twice: Giraud et al. 2005) and the triangular
factor that turns amounts over the basis into amounts over the atoms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cloche.sparse.pursuit.base import floor_of

_NUMBERS = 2**27  # correlations and basis held at once


@torch.no_grad()
def omp_batched(x: Tensor, atoms: Tensor, k: int, tolerance: float) -> tuple[Tensor, Tensor]:
    """Indices and values [n, k] for the signals x [n, d], by the same rules as the compiled kernel."""
    size, width = atoms.shape
    step = max(1, _NUMBERS // (2 * size + (k + 2) * width))
    pieces = [_batch(piece, atoms, k, tolerance) for piece in x.split(step)] or [
        (x.new_zeros(0, k, dtype=torch.int64), x.new_zeros(0, k))
    ]
    return torch.cat([indices for indices, _ in pieces]), torch.cat([values for _, values in pieces])


def _batch(x: Tensor, atoms: Tensor, k: int, tolerance: float) -> tuple[Tensor, Tensor]:
    n, width = x.shape
    floor = floor_of(x.dtype)
    least = floor * torch.linalg.vector_norm(x, dim=1)
    residual, going = x.clone(), torch.ones(n, dtype=torch.bool, device=x.device)
    basis = x.new_zeros(n, k, width)
    factor = torch.eye(k, dtype=x.dtype, device=x.device).repeat(n, 1, 1)  # upper: atoms = basis^T factor
    targets, indices = x.new_zeros(n, k), torch.zeros(n, k, dtype=torch.int64, device=x.device)
    barred = torch.zeros(n, len(atoms), dtype=torch.bool, device=x.device)
    used = torch.zeros(n, dtype=torch.int64, device=x.device)
    rows = torch.arange(n, device=x.device)
    while True:
        going &= (used < k) & (torch.linalg.vector_norm(residual, dim=1) > tolerance)
        top, new = (residual @ atoms.T).abs_().masked_fill_(barred, 0).max(1)
        going &= top > least
        if not bool(going.any()):
            break
        atom = atoms[new]
        weights, rest = _against(basis, atom)
        norm = torch.linalg.vector_norm(rest, dim=1)
        barred[rows[going], new[going]] = True
        added = going & (norm.square() > floor * atom.square().sum(1))
        row, slot = rows[added], used[added]
        direction = rest[added] / norm[added, None]
        amount = (direction * residual[added]).sum(1)
        factor[row, :, slot] = weights[added]
        factor[row, slot, slot] = norm[added]
        basis[row, slot], targets[row, slot], indices[row, slot] = direction, amount, new[added]
        residual[row] -= amount[:, None] * direction
        used[row] += 1
    values = torch.linalg.solve_triangular(factor, targets[..., None], upper=True)[..., 0]
    return indices, values


def _against(basis: Tensor, atom: Tensor) -> tuple[Tensor, Tensor]:
    """(products with the basis [n, k], what the basis leaves of the atom [n, d]), orthogonal to rounding."""
    weights = torch.einsum("nkd,nd->nk", basis, atom)
    rest = atom - torch.einsum("nk,nkd->nd", weights, basis)
    again = torch.einsum("nkd,nd->nk", basis, rest)
    return weights + again, rest - torch.einsum("nk,nkd->nd", again, basis)
