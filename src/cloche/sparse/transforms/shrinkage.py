"""Sparse coefficients over a transform: the lasso by FISTA, and m terms by iterative hard thresholding."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from cloche.errors import SettingRange
from cloche.sparse.transforms.base import Coefficients, Transform

_POWER_STEPS = 60


@lru_cache(maxsize=64)
def curvature(transform: Transform) -> float:
    """The largest eigenvalue of D^T D, by power iteration, and a hundredth on top; one for a tight frame."""
    x = torch.randn((1, *transform.shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    size = 1.0
    for _ in range(_POWER_STEPS):
        x = transform._synthesise(transform._synthesise_adjoint(x / x.norm()))
        size = float(x.norm())
    return 1.01 * size


@torch.no_grad()
def lasso(x: Tensor, transform: Transform, penalty: float, steps: int = 200, tolerance: float = 1e-6) -> Coefficients:
    """The a minimising 1/2 |x - D a|^2 + penalty |a|_1 over signals x [*batch, *shape] (FISTA, Beck & Teboulle 2009).

    Stops when a step changes a by less than `tolerance` of its norm, or after `steps`. Momentum restarts when it
    overshoots.

    >>> import torch
    >>> from cloche.sparse.transforms import Wavelets, lasso
    >>> transform = Wavelets((64,), "haar", levels=3)
    >>> x = torch.rand(64, generator=torch.Generator().manual_seed(0))
    >>> found = lasso(x, transform, penalty=0.1)
    >>> torch.allclose(found.flat, transform.analyse(x).soft(0.1).flat, atol=1e-4)  # an orthogonal basis
    True
    """
    if not penalty > 0:
        raise SettingRange(f"penalty = {penalty:g} gives no sparsity: use one above zero.")
    bound = curvature(transform)
    a = ahead = torch.zeros_like(transform.synthesise_adjoint(x).flat)
    momentum = 1.0
    for _ in range(steps):
        gradient = transform.synthesise_adjoint(transform.synthesise(ahead) - x).flat
        after = Coefficients(ahead - gradient / bound, transform.layout).soft(penalty / bound).flat
        moved = after - a
        uphill = float(((ahead - after) * moved).sum()) > 0
        grown = 1.0 if uphill else (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = after if uphill else after + (momentum - 1) / grown * moved
        a, momentum = after, grown
        if float(moved.norm()) <= tolerance * float(a.norm()):
            break
    return Coefficients(a, transform.layout)


@torch.no_grad()
def iterative_hard_thresholding(x: Tensor, transform: Transform, m: int, steps: int = 30) -> Coefficients:
    """m coefficients per signal x [*batch, *shape] with a small |x - D a| (Blumensath & Davies 2009).

    Starts from the m largest of the analysis; each step is along the gradient, then keeps the m largest. In an orthogonal
    basis nothing changes; in a frame the terms are fitted jointly.

    >>> import torch
    >>> from cloche.sparse.transforms import Wavelets, iterative_hard_thresholding
    >>> transform = Wavelets((64,), "haar", levels=3)
    >>> x = torch.rand(64, generator=torch.Generator().manual_seed(0))
    >>> int((iterative_hard_thresholding(x, transform, m=5).flat != 0).sum())
    5
    """
    bound = curvature(transform)
    a = transform.analyse(x).largest(m)
    for _ in range(steps):
        gradient = transform.synthesise_adjoint(x - transform.synthesise(a)).flat
        a = a.with_flat(a.flat + gradient / bound).largest(m)
    return a
