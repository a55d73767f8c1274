"""Fits of `linear_probes` over all layers against scikit-learn's on the same activations.

    python -m bench.interp.probes

Ours is `probing.linear`'s own: for every layer one Gram matrix per fold, from which ridge regression takes all penalties, folds
and labels (with those of the control task and the shuffled labels), and logistic regression per label. Theirs, per layer and
label: RidgeCV over the same penalties and folds, and LogisticRegression with balanced classes and the same penalty on the
same whitened rows. Both sides must choose the same penalty for most labels and a neighbouring one for the rest (ours is of the
mean squared error and theirs of its sum, so that on three of four folds theirs is a third larger), have the same ridge weights
where the penalty is the same, and the same logistic directions, or the run fails; what is wanted is at most a third of
scikit-learn's CPU time.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.rounds import Side, Spread, asked, interleave, ratio, table, write
from cloche.interp.probing.grams import Grams
from cloche.interp.probing.linear import FOLDS, PENALTIES
from cloche.interp.probing.probes import PENALTY, logistic, whitened

WANTED = "at most a third of scikit-learn's CPU time"
KINDS = 3  # labels, those of the control task, shuffled ones
ALIKE = 0.999  # least cosine of two logistic directions
AGREE = 0.75  # least share of labels with one penalty


@dataclass(frozen=True)
class Shape:
    layers: int
    rows: int
    width: int
    labels: int
    fitted: int  # rows of the logistic regression

    def __str__(self) -> str:
        return f"L{self.layers} {self.rows:,} x {self.width}, {self.labels} labels"


SHAPES = (Shape(4, 8192, 128, 4, 2048), Shape(2, 4096, 384, 3, 2048))


def data(shape: Shape) -> tuple[list[Tensor], Tensor]:
    """Rows [layer][row, width] of unequal variances, and labels [row, kind * label] that some directions hold, with noise."""
    draw = torch.Generator().manual_seed(0)
    scale = torch.logspace(0, -2, shape.width)
    mix = torch.linalg.qr(torch.randn(shape.width, shape.width, generator=draw)).Q
    layers = [torch.randn(shape.rows, shape.width, generator=draw) * scale @ mix for _ in range(shape.layers)]
    held = layers[0] @ torch.randn(shape.width, shape.labels, generator=draw)
    noise = torch.randn(held.shape, generator=draw) * held.std(0)
    truth = held + noise > held.std(0) * torch.linspace(-0.5, 1.5, shape.labels)
    control = torch.rand(truth.shape, generator=draw) < truth.float().mean(0)
    shuffled = truth[torch.randperm(len(truth), generator=draw)]
    return layers, torch.cat([truth, control, shuffled], 1)


def folds(shape: Shape) -> NDArray[np.int64]:
    """The fold of each row: windows of 64 rows in turn."""
    return np.arange(shape.rows) // 64 % FOLDS


def every(shape: Shape) -> slice:
    return slice(0, None, shape.rows // shape.fitted)


# Of each layer: ridge weights [width, kind * label], the penalty of each [kind * label], and logistic weights [width, label].
Fits = list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]


def ours(shape: Shape, layers: list[Tensor], targets: Tensor) -> Fits:
    some = every(shape)
    truth = targets[some, : shape.labels].numpy()
    found = []
    for rows in layers:
        grams = Grams(FOLDS, shape.width, targets.shape[1])
        for i, (x, y) in enumerate(zip(rows.split(64), targets.split(64), strict=True)):
            grams.add(i % FOLDS, x, y)
        weights, _, chosen, _ = grams.best(PENALTIES)
        found.append((weights.numpy(), chosen.numpy(), logistic(rows[some].numpy(), truth)))
    return found


def scikit_learns(shape: Shape, layers: list[Tensor], targets: Tensor) -> Fits:
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.model_selection import PredefinedSplit

    some, split, found = every(shape), PredefinedSplit(folds(shape)), []
    for rows in layers:
        x, y = rows.double().numpy(), targets.double().numpy()
        scale = len(x) * float(np.square(x - x.mean(0)).mean())
        penalties = [scale * each for each in PENALTIES]
        ridge = [RidgeCV(penalties, cv=split, scoring="neg_mean_squared_error").fit(x, one) for one in y.T]
        chosen = np.array([penalties.index(each.alpha_) for each in ridge])
        white, basis = whitened(x[some])
        bound = LogisticRegression(C=1 / (len(white) * PENALTY), class_weight="balanced", max_iter=1000)
        each = [basis @ bound.fit(white, y[some, i]).coef_[0] for i in range(shape.labels)]
        found.append((np.stack([one.coef_ for one in ridge], 1), chosen, np.stack(each, 1)))
    return found


def same(one: Fits, other: Fits) -> None:
    for layer, ((ridge, chosen, logit), (ridge_2, chosen_2, logit_2)) in enumerate(zip(one, other, strict=True)):
        agree = chosen == chosen_2
        if agree.mean() < AGREE or np.abs(chosen - chosen_2).max() > 1:
            raise SystemExit(f"{1 - agree.mean():.0%} of the labels of layer {layer} have other penalties")
        off = float(np.abs(ridge - ridge_2)[:, agree].max() / np.abs(ridge_2).max())
        if off > 1e-6:
            raise SystemExit(f"the ridge weights of layer {layer} differ by {off:.2g} of the largest")
        cosines = (logit * logit_2).sum(0) / np.linalg.norm(logit, axis=0) / np.linalg.norm(logit_2, axis=0)
        if cosines.min() < ALIKE:
            raise SystemExit(f"the logistic directions of layer {layer} have a cosine of {cosines.min():.4f}")


def compared(shape: Shape, rounds: int) -> tuple[list[str], dict[str, Any]]:
    layers, targets = data(shape)
    same(ours(shape, layers, targets), scikit_learns(shape, layers, targets))
    sides = [
        Side("cloche", lambda: ours(shape, layers, targets)),
        Side("scikit-learn", lambda: scikit_learns(shape, layers, targets)),
    ]
    interleave(sides, rounds, warm=0)
    by = ratio(sides[1], sides[0], "cpu")
    found: dict[str, Any] = {side.name: Spread.of(side.cpu).record() for side in sides}
    found["scikit-learn / cloche"] = by.record()
    return [str(shape), *(f"{found[side.name]['median']:.2f}" for side in sides), str(by)], found


def main() -> None:
    options = asked(__doc__, rounds=3, threads=1)
    warnings.simplefilter("ignore")
    rows, record = [], {}
    for shape in SHAPES:
        row, found = compared(shape, options.rounds)
        rows.append(row)
        record[row[0]] = found
        print(" ".join(row), flush=True)
    print(table(["CPU seconds", "cloche", "scikit-learn", "scikit-learn / cloche"], rows))
    write("probes", {"wanted": WANTED, "rows": record}, "torch scikit-learn numpy")


if __name__ == "__main__":
    main()
