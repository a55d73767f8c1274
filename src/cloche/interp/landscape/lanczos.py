"""The ends of the spectrum of a matrix that is only known by its products with vectors, as a Hessian is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cloche.errors import ModelUnsupported, shown

BREAKDOWN = 1e-6  # of the largest eigenvalue: what is left of a new direction is rounding


@dataclass(frozen=True, eq=False)
class Ritz:
    """values: approximate eigenvalues [k], ascending. residuals [k]: |H v - value v|; an eigenvalue of H lies within that
    distance of the value. ends: the smallest and the largest value after each product. weights [k], with sum 1: the squared
    component of the starting vector along each Ritz vector; for a random start, an estimate of the share of eigenvalues near
    the value (Ghorbani et al. 2019, 1901.10159)."""

    values: Tensor
    residuals: Tensor
    ends: list[tuple[float, float]]
    weights: Tensor


class HessianProducts:
    """The gradient [size] of a loss in some weights, and products with its Hessian, as vectors over all of them.

    The graph of the gradient is kept, so a product is one backward pass. The fused attention kernels have no second derivative:
    compute the loss under `sdpa_kernel(SDPBackend.MATH)`.
    """

    def __init__(self, loss: Tensor, weights: Sequence[Tensor]) -> None:
        self.weights = weights
        self._graph = flat_gradient(loss, weights, create_graph=True)
        self.gradient = self._graph.detach()

    def __call__(self, vector: Tensor) -> Tensor:
        """H v [size]."""
        if not self._graph.requires_grad:
            return torch.zeros_like(vector)
        return flat_gradient(self._graph @ vector, self.weights, retain_graph=True).detach()

    def random(self, seed: int) -> Tensor:
        """A random vector [size] to start from."""
        return torch.randn(len(self.gradient), generator=torch.Generator().manual_seed(seed)).to(self.gradient)


def flat_gradient(value: Tensor, weights: Sequence[Tensor], **how: Any) -> Tensor:
    """The gradient of a number in all weights, in their order, 0 in those that it does not depend on: [size]. Raises
    ModelUnsupported where there is none."""
    try:
        parts = torch.autograd.grad(value, weights, allow_unused=True, materialize_grads=True, **how)
    except RuntimeError as error:
        if "derivative" not in str(error) and "differentiab" not in str(error):
            raise
        raise ModelUnsupported(
            f"A part of this model has no second derivative ({shown(str(error).splitlines()[0])}); a Hessian needs parts whose "
            "backward passes are differentiable."
        ) from error
    return torch.cat([part.reshape(-1) for part in parts])


def lanczos(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int,
    ends: int = 1,
    tolerance: float = 1e-5,
    keep: bool = True,
) -> Ritz:
    """Lanczos iterations from the vector `start` [size] (Golub and Van Loan 2013, section 10.3), until the `ends` smallest and
    largest values have residuals below `tolerance` of the largest in size.

    keep: every vector is kept, and later ones are made orthogonal to all, so that an eigenvalue is found once however often it
    occurs. Otherwise three are kept: eigenvalues that were found repeat, and none moves.

    >>> import torch
    >>> from cloche.interp.landscape.lanczos import lanczos
    >>> matrix = torch.diag(torch.arange(-2.0, 18.0))
    >>> found = lanczos(matrix.mv, torch.ones(20), steps=20)
    >>> round(float(found.values[0]), 4), round(float(found.values[-1]), 4)
    (-2.0, 17.0)
    """
    vector, basis = start / start.norm(), list[Tensor]()
    diagonal, beside, found = list[float](), list[float](), list[tuple[float, float]]()
    while True:
        basis = [*basis, vector] if keep else [*basis[-1:], vector]
        image = product(vector)
        diagonal.append(float(image.double() @ vector.double()))
        rest = image
        for _ in range(2):  # once leaves rounding that grows into copies of the largest eigenvalues
            rest = rest - torch.stack(basis).T @ (torch.stack(basis) @ rest)
        beta = float(rest.norm())
        values, vectors = _tridiagonal(diagonal, beside)
        found.append((float(values[0]), float(values[-1])))
        residuals, largest = (beta * vectors[-1]).abs(), float(values.abs().max())
        wanted = torch.cat([residuals[:ends], residuals[-ends:]])
        done = len(found) >= 2 * ends and bool((wanted <= tolerance * largest).all())
        if done or len(found) >= min(steps, len(start)) or beta <= BREAKDOWN * largest:
            return Ritz(values, residuals, found, vectors[0].square())
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
