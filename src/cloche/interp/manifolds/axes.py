"""Axes of a cloud of points: principal and independent components, how many exceed chance, and UMAP."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.errors import NotSolved, SignalsShape
from cloche.missing import extra

ROUNDS = 500  # of FastICA at most
CONVERGED = 1e-10  # 1 - |cosine| between successive estimates of an axis
ROUNDING = 1e-9  # share of the whole variance
DRAWS = 20  # of a null; what exceeds all of them does so by chance in 1 of 21 cases


@dataclass(frozen=True, eq=False)
class Principal:
    """Principal components: `mean` [dim], orthonormal `axes` [axis, dim], the `variance` along each [axis]."""

    mean: Tensor
    axes: Tensor
    variance: Tensor

    @property
    def explained(self) -> Tensor:
        """Share of the variance along each axis, [axis]; zeros for points that are all the same."""
        return self.variance / self.variance.sum().clamp(min=torch.finfo(self.variance.dtype).tiny)

    def scores(self, points: Tensor, count: int | None = None) -> Tensor:
        """Coordinates [n, count] of points on the first axes."""
        return (points.double() - self.mean) @ self.axes[:count].T


def principal(points: Tensor) -> Principal:
    """Principal components of points [n, dim] in fp64, min(n - 1, dim) of them; the sign of each makes its largest entry
    positive. The variance is the mean square, over n."""
    points = points.double()
    n, dim = points.shape
    mean = points.mean(0)
    _, singular, axes = torch.linalg.svd(points - mean, full_matrices=False)
    count = max(1, min(n - 1, dim))
    axes, variance = axes[:count], singular[:count].square() / n
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return Principal(mean, axes * largest.sign(), variance)


def participation_ratio(variance: Tensor) -> float:
    """(sum of eigenvalues)^2 over the sum of their squares: the number of axes if all have equal variance."""
    total = float(variance.sum())
    return total**2 / float(variance.square().sum()) if total > 0 else 0.0


def axes_above_chance(points: Tensor, draws: int = DRAWS, seed: int = 0) -> int:
    """Number of leading principal axes whose variance exceeds that of the axis in all `draws` where each column of points
    [n, dim] is permuted by itself (parallel analysis: Horn 1965)."""
    points = points.double()
    draw = torch.Generator().manual_seed(seed)
    null = torch.stack([principal(_permuted(points, draw)).variance for _ in range(draws)])
    return count_above(principal(points).variance, null)


def count_above(variance: Tensor, null: Tensor) -> int:
    """How many leading entries of `variance` [axis] exceed all of their column of `null` [draw, axis], and rounding."""
    above = variance > null.amax(0).clamp(min=ROUNDING * float(variance.sum()))
    return int(above.long().cumprod(0).sum())


def _permuted(points: Tensor, draw: torch.Generator) -> Tensor:
    order = torch.rand(points.shape, generator=draw).argsort(0)
    return points.gather(0, order.to(points.device))


# ---- independent components


@dataclass(frozen=True, eq=False)
class Independent:
    """Independent components: `sources` [n, count] of variance 1, and `unmixing` [count, dim] with sources = (x - mean)
    unmixing^T."""

    mean: Tensor
    unmixing: Tensor
    sources: Tensor


def independent(points: Tensor, count: int, seed: int = 0) -> Independent:
    """Independent components of points [n, dim] by symmetric FastICA with g = tanh on whitened data (Hyvärinen 1999).

    `seed` draws the first estimate; order and sign of components are arbitrary. Raises SignalsShape where points do not
    fill `count` dimensions, and NotSolved if the iteration does not converge.
    """
    pca = principal(points)
    require_points(len(points), count)
    if count > len(pca.variance) or float(pca.variance[count - 1]) <= 1e-12 * float(pca.variance[0]):
        raise SignalsShape(
            f"The points vary in fewer than {count} dimensions, so they have no {count} independent components; ask for fewer."
        )
    whitening = pca.axes[:count] / pca.variance[:count, None].sqrt()
    white = (points.double() - pca.mean) @ whitening.T  # [n, count]
    draw = torch.Generator().manual_seed(seed)
    turn = _orthonormal(torch.randn(count, count, generator=draw, dtype=torch.float64).to(white))
    for _ in range(ROUNDS):
        slope = (white @ turn.T).tanh()
        new = _orthonormal(slope.T @ white / len(white) - (1 - slope.square()).mean(0)[:, None] * turn)
        moved = float((1 - (new * turn).sum(1).abs()).max())
        turn = new
        if moved < CONVERGED:
            return Independent(pca.mean, turn @ whitening, white @ turn.T)
    raise NotSolved(
        f"FastICA did not converge in {ROUNDS} rounds: the components may be Gaussian, which none can separate; ask for fewer."
    )


def _orthonormal(square: Tensor) -> Tensor:
    """The nearest orthonormal matrix: all rows are made orthogonal at once."""
    left, _, right = torch.linalg.svd(square)
    return left @ right


def require_points(n: int, dimensions: int) -> None:
    """Raises SignalsShape unless there are more points than dimensions."""
    if n <= dimensions:
        raise SignalsShape(
            f"{n} points lie in a flat of fewer than {dimensions + 1} dimensions whatever they are, so nothing can be said of "
            f"{dimensions}; give more points, or ask for fewer dimensions."
        )


def umap(points: Tensor, count: int = 3, neighbours: int = 15, seed: int = 0) -> Tensor:
    """UMAP coordinates [n, count] of points [n, dim]. Raises ExtraMissing without the extra "umap"."""
    module = extra("umap", "umap", "UMAP needs umap-learn")
    made = module.UMAP(n_components=count, n_neighbors=min(neighbours, len(points) - 1), random_state=seed, n_jobs=1)
    return torch.from_numpy(made.fit_transform(points.double().cpu().numpy())).double()


def trustworthiness(points: Tensor, seen: Tensor, count: int) -> float:
    """How far coordinates seen [n, k] can be trusted for the `count` nearest of points [n, dim] (Venna and Kaski 2001): 1 if
    all that are near there are near in full, less by the ranks of those that are not. Needs 3 count < 2 n - 1."""
    n = len(points)
    if not 0 < 3 * count < 2 * n - 1:
        raise SignalsShape(
            f"Trust in {count} neighbours needs more than {(3 * count + 1) // 2} points, and there are {n}."
        )
    far, close = (torch.cdist(rows, rows).fill_diagonal_(torch.inf) for rows in (points.double(), seen.double()))
    ranks = far.argsort(1).argsort(1) + 1  # [n, n], 1 is the nearest
    beyond = (ranks.gather(1, close.topk(count, largest=False).indices) - count).clamp(min=0).sum()
    return 1 - 2 * float(beyond) / (n * count * (2 * n - 3 * count - 1))
