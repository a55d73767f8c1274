"""Ridge regression for all penalties and folds from sums that one pass over the data collects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Fit(NamedTuple):
    """For each target the fit whose penalty is best on the folds left out: weights [width, target], offsets [target], the index
    of the penalty [target], and the share of the variance explained on the folds left out [target]."""

    weights: Tensor
    offsets: Tensor
    penalty: Tensor
    explained: Tensor


class Grams:
    """Sums over the rows x [row, width] and targets y [row, target] of each fold, in double precision: their number, X'X, X'y
    and y'y. Every fit below comes from them; the rows themselves are not kept."""

    def __init__(self, folds: int, width: int, targets: int) -> None:
        self.count = torch.zeros(folds, dtype=torch.float64)
        self.x = torch.zeros(folds, width, dtype=torch.float64)
        self.y = torch.zeros(folds, targets, dtype=torch.float64)
        self.xx = torch.zeros(folds, width, width, dtype=torch.float64)
        self.xy = torch.zeros(folds, width, targets, dtype=torch.float64)
        self.yy = torch.zeros(folds, targets, dtype=torch.float64)

    def add(self, fold: int, x: Tensor, y: Tensor) -> None:
        x, y = x.double().cpu(), y.double().cpu()
        self.count[fold] += len(x)
        self.x[fold] += x.sum(0)
        self.y[fold] += y.sum(0)
        self.xx[fold].addmm_(x.T, x)
        self.xy[fold].addmm_(x.T, y)
        self.yy[fold] += y.square().sum(0)

    def ridge(self, penalties: Sequence[float], without: int | None = None) -> tuple[Tensor, Tensor]:
        """Weights [penalty, width, target] and offsets [penalty, target] of the fit that minimises the mean squared error plus
        penalty |w|^2, each penalty in units of the mean variance of a column; `without`: the fold left out. One
        eigendecomposition serves all penalties and targets."""
        kept = [i for i in range(len(self.count)) if i != without]
        n = self.count[kept].sum()
        mean, target = self.x[kept].sum(0) / n, self.y[kept].sum(0) / n
        values, vectors = torch.linalg.eigh(self.covariance(kept))
        cross = vectors.T @ (self.xy[kept].sum(0) / n - torch.outer(mean, target))  # [eigenvector, target]
        scale = values.mean().clamp(min=torch.finfo(torch.float64).tiny)
        shrunk = (
            cross[None] / (values.clamp(min=0)[None] + scale * torch.tensor(penalties).double()[:, None])[..., None]
        )
        weights = vectors @ shrunk
        return weights, target - torch.einsum("w,pwt->pt", mean, weights)

    def covariance(self, folds: Sequence[int]) -> Tensor:
        """Covariance of the rows of some folds, [width, width]."""
        n, mean = self.count[folds].sum(), self.x[folds].sum(0) / self.count[folds].sum()
        return self.xx[folds].sum(0) / n - torch.outer(mean, mean)

    def squares(self, folds: Sequence[int]) -> Tensor:
        """Sum of squares of each target about its mean over some folds, [target]."""
        return self.yy[folds].sum(0) - self.y[folds].sum(0).square() / self.count[folds].sum()

    def errors(self, fold: int, weights: Tensor, offsets: Tensor) -> Tensor:
        """Sum of squared errors on a fold, [penalty, target]."""
        quadratic = torch.einsum("pwt,wv,pvt->pt", weights, self.xx[fold], weights)
        linear = torch.einsum("pwt,wt->pt", weights, self.xy[fold])
        mixed = torch.einsum("pwt,w->pt", weights, self.x[fold])
        constant = self.yy[fold] - 2 * offsets * self.y[fold] + self.count[fold] * offsets.square()
        return constant + quadratic - 2 * linear + 2 * offsets * mixed

    def best(self, penalties: Sequence[float]) -> Fit:
        """The fit on all folds, with the penalty of each target whose error is least over the folds left out."""
        total = torch.zeros(len(penalties), self.y.shape[1], dtype=torch.float64)
        for fold in range(len(self.count)):
            total += self.errors(fold, *self.ridge(penalties, without=fold))
        chosen = total.argmin(0)
        weights, offsets = self.ridge(penalties)
        targets = torch.arange(len(chosen))
        around = self.squares(range(len(self.count))).clamp(min=torch.finfo(torch.float64).tiny)
        explained = 1 - total[chosen, targets] / around
        return Fit(weights[chosen, :, targets].T, offsets[chosen, targets], chosen, explained)

    def class_means(self) -> tuple[Tensor, Tensor]:
        """Means of the rows with y = 1 and of those with y = 0 [width, target], if the targets are 0 and 1."""
        n, positive = self.count.sum(), self.y.sum(0)
        ones = self.xy.sum(0)
        zeros = self.x.sum(0)[:, None] - ones
        return ones / positive.clamp(min=1), zeros / (n - positive).clamp(min=1)
