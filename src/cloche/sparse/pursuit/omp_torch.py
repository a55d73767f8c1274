"""Orthogonal matching pursuit of many signals at once, in torch, without a Gram: one matrix product per step.

Each signal keeps an orthonormal basis of its chosen atoms (Gram-Schmidt, twice: Giraud et al. 2005) and the triangular
factor that turns coefficients over the basis into coefficients over the atoms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cloche.sparse.pursuit.base import dependence_limit, rounding_floor, unexplained_limit

_NUMBERS = 2**27  # correlations and basis held at once


@torch.no_grad()
def omp_batched(x: Tensor, atoms: Tensor, k: int, tolerance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Indices and values [n, k] for the signals x [n, d], by the same rules as the compiled kernel, and [n] whether a signal
    met atoms too nearly dependent for this precision. `tolerance` [n] are the norms of residuals to stop at."""
    size, width = atoms.shape
    step = max(1, _NUMBERS // (2 * size + (k + 2) * width))
    pieces = [
        _batch(piece, atoms.detach(), k, enough)
        for piece, enough in zip(x.split(step), tolerance.split(step), strict=True)
    ]
    indices, values, doubtful = zip(*pieces, strict=True)
    return torch.cat(indices), torch.cat(values), torch.cat(doubtful)


def _batch(x: Tensor, atoms: Tensor, k: int, tolerance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    n, width = x.shape
    floor, dependence = rounding_floor(x.dtype), dependence_limit(x.dtype)
    size = torch.linalg.vector_norm(x, dim=1)
    residual, going = x.clone(), torch.ones(n, dtype=torch.bool, device=x.device)
    doubtful = torch.zeros_like(going)
    basis = x.new_zeros(n, k, width)
    factor = torch.eye(k, dtype=x.dtype, device=x.device).repeat(n, 1, 1)  # upper: atoms = basis^T factor
    targets, indices = x.new_zeros(n, k), torch.zeros(n, k, dtype=torch.int64, device=x.device)
    barred = torch.zeros(n, len(atoms), dtype=torch.bool, device=x.device)
    used = torch.zeros(n, dtype=torch.int64, device=x.device)
    rows = torch.arange(n, device=x.device)
    while n:
        left = torch.linalg.vector_norm(residual, dim=1)
        going &= (used < k) & (left > tolerance)
        top, new = (residual @ atoms.T).abs_().masked_fill_(barred, 0).max(1)
        silent = top <= floor * size
        doubtful |= going & silent & (top > 0) & (left.square() > unexplained_limit(x.dtype) * size.square())
        going &= ~silent
        if not bool(going.any()):
            break
        atom = atoms[new]
        weights, rest = _against(basis, atom)
        distance = torch.linalg.vector_norm(rest, dim=1) / torch.linalg.vector_norm(atom, dim=1)
        doubtful |= going & (distance.square() <= dependence)
        barred[rows[going], new[going]] = True
        added = going & (
            distance > floor
        )  # without a Gram it is the distance that has the precision's digits, not its square
        row, slot = rows[added], used[added]
        norm = torch.linalg.vector_norm(rest[added], dim=1)
        direction = rest[added] / norm[:, None]
        amount = (direction * residual[added]).sum(1)
        factor[row, :, slot] = weights[added]
        factor[row, slot, slot] = norm
        basis[row, slot], targets[row, slot], indices[row, slot] = direction, amount, new[added]
        residual[row] -= amount[:, None] * direction
        used[row] += 1
    values = torch.linalg.solve_triangular(factor, targets[..., None], upper=True)[..., 0]
    return indices, values, doubtful


def _against(basis: Tensor, atom: Tensor) -> tuple[Tensor, Tensor]:
    """(products with the basis [n, k], what the basis leaves of the atom [n, d]), orthogonal to rounding."""
    weights = torch.einsum("nkd,nd->nk", basis, atom)
    rest = atom - torch.einsum("nk,nkd->nd", weights, basis)
    again = torch.einsum("nkd,nd->nk", basis, rest)
    return weights + again, rest - torch.einsum("nk,nkd->nd", again, basis)
