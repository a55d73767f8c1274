"""Intrinsic dimension from ratios of distances to neighbours, over scales."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.errors import SignalsShape
from cloche.interp.manifolds.neighbours import nearest_points

KEPT = 0.9  # share of the ratios that TwoNN fits: the largest are of points at the border
SAME = 1e-6  # of the root mean square distance from the mean, below which two points are one
LARGEST = 1e4  # dimension that the search for GRIDE's estimate ends at


def two_nn(points: Tensor) -> float:
    """Intrinsic dimension of points [n, dim] by TwoNN (Facco et al. 2017): the slope, through the origin, of -log(1 - F)
    against log(r2 / r1) over the lowest 90% of ratios, F being the empirical distribution. A point that occurs twice
    counts once. NaN for points on a lattice, whose nearest two are equally far. Raises SignalsShape for fewer than 10
    different points."""
    return two_nn_of(_distances(points, 2))


def two_nn_of(distances: Tensor) -> float:
    """`two_nn` from distances [n, 2] to the nearest two."""
    ratios = (distances[:, 1] / distances[:, 0]).log().sort().values
    n = len(ratios)
    if not n or float(ratios.median()) < 1e-3:
        return float("nan")
    x = ratios[: int(KEPT * n)]
    y = -torch.log1p(-torch.arange(1, len(x) + 1, dtype=torch.float64, device=x.device) / n)
    return float((x * y).sum() / x.square().sum().clamp(min=1e-300))


@dataclass(frozen=True)
class AtScale:
    """GRIDE's estimate at one scale: `neighbour` is n1, `distance` the mean distance to the neighbour n2 = 2 n1, `error` the
    standard error of `dimension`."""

    neighbour: int
    distance: float
    dimension: float
    error: float


def gride(points: Tensor, largest: int = 64) -> list[AtScale]:
    """Intrinsic dimension of points [n, dim] at scales n1 = 1, 2, 4, ... up to `largest` (Denti et al. 2022): the maximum
    likelihood estimate from ratios of the distances to neighbours 2 n1 and n1. Noise is seen at small scales, curvature
    and borders at large ones; where a stretch of scales agrees, the dimension is that."""
    most = min(largest, (len(points) - 1) // 2)
    distances = _distances(points, 2 * max(most, 1))
    scales, first = [], 1
    while first <= most and 2 * first <= distances.shape[1]:
        near, far = distances[:, first - 1], distances[:, 2 * first - 1]
        dimension, error = _likeliest((far / near).log(), first)
        scales.append(AtScale(first, float(far.mean()), dimension, error))
        first *= 2
    return scales


def _likeliest(ratios: Tensor, first: int) -> tuple[float, float]:
    """The root of the likelihood's slope in d, which falls, and the standard error from its slope there; `ratios` are
    logs of r_2n / r_n."""
    ratios = ratios[ratios > 0]
    if not len(ratios):
        return float("nan"), float("nan")
    total = (2 * first - 1) * float(ratios.sum())

    def slope(d: float) -> float:
        return len(ratios) / d + (first - 1) * float((ratios / -torch.expm1(-d * ratios)).sum()) - total

    low, high = 1e-3, LARGEST
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    d = (low * high) ** 0.5
    step = 1e-4 * d
    curvature = (slope(d - step) - slope(d + step)) / (2 * step)
    return d, curvature**-0.5 if curvature > 0 else float("nan")


def _distances(points: Tensor, count: int) -> Tensor:
    """Distances [n, count] to the nearest among different points."""
    points = points - points.double().mean(0)
    size = SAME * float(points.square().sum(1).mean().sqrt())
    points = points[_first_of_each((points / (size or 1.0)).round())]
    n = len(points)
    if n < 10:
        raise SignalsShape(f"{n} different points are too few for an intrinsic dimension; give at least 10.")
    distances, _ = nearest_points(points, min(count, n - 1))
    return distances[distances[:, 0] > size]


def _first_of_each(rows: Tensor) -> Tensor:
    """The index of the first of each kind of rows, in order."""
    _, kind = rows.unique(dim=0, return_inverse=True)
    order = kind.argsort(stable=True)
    first = torch.cat([torch.ones(1, dtype=torch.bool, device=rows.device), kind[order].diff() > 0])
    return order[first].sort().values
