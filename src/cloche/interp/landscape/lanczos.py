"""The ends of the spectrum of a symmetric matrix that is only known by its products with vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BREAKDOWN = 1e-7  # of the largest eigenvalue: what is left of a new direction is rounding


@dataclass(frozen=True, eq=False)
class Ritz:
    """values: approximate eigenvalues [k], ascending. residuals: |H v - value v| of each, so that an eigenvalue is within that
    distance of the value. products: how many were made."""

    values: Tensor
    residuals: Tensor
    products: int


def lanczos(
    product: Callable[[Tensor], Tensor], start: Tensor, steps: int, ends: int = 1, tolerance: float = 1e-5
) -> Ritz:
    """Lanczos iterations from the vector `start` [size], with full reorthogonalisation (Golub and Van Loan 2013, section 10.3),
    until the `ends` smallest and largest values have residuals below `tolerance` of the largest in size.

    It holds one vector for each of the `steps`. An eigenvalue is found once however often it occurs.

    >>> import torch
    >>> from cloche.interp.landscape.lanczos import lanczos
    >>> matrix = torch.diag(torch.arange(-2.0, 18.0))
    >>> found = lanczos(matrix.mv, torch.ones(20), steps=20)
    >>> round(float(found.values[0]), 4), round(float(found.values[-1]), 4)
    (-2.0, 17.0)
    """
    vector, basis = start / start.norm(), list[Tensor]()
    diagonal, beside = list[float](), list[float]()
    while True:
        basis.append(vector)
        image = product(vector)
        diagonal.append(float(image.double() @ vector.double()))
        rest = image
        for _ in range(2):  # once leaves rounding that grows into copies of the largest eigenvalues
            rest = rest - torch.stack(basis).T @ (torch.stack(basis) @ rest)
        beta = float(rest.norm())
        values, vectors = _tridiagonal(diagonal, beside)
        residuals = (beta * vectors[-1]).abs()
        largest = float(values.abs().max())
        wanted = torch.cat([residuals[:ends], residuals[-ends:]])
        done = len(basis) >= 2 * ends and bool((wanted <= tolerance * largest).all())
        if done or len(basis) >= min(steps, len(start)) or beta <= BREAKDOWN * largest or beta == 0:
            return Ritz(values, residuals, len(basis))
        beside.append(beta)
        vector = rest / beta


def _tridiagonal(diagonal: list[float], beside: list[float]) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors (columns) of the matrix with this diagonal and these entries beside it."""
    off = torch.tensor(beside, dtype=torch.float64)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if len(beside):
        matrix += torch.diag(off, 1) + torch.diag(off, -1)
    found = torch.linalg.eigh(matrix)
    return found.eigenvalues, found.eigenvectors
