"""Linear probes of binary labels: on all units at once, and on the best k."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cloche.errors import ArgumentRange, NotFinite, SignalsShape
from cloche.interp.probing.columns import DenseColumns, SparseColumns
from cloche.sparse import Code

Array = NDArray[np.float64]
Matrix = NDArray[Any] | Code  # [n, units]: a float32 array, or a sparse code
PENALTY = 1e-3  # on squared weights of units scaled to standard deviation one; the loss is a mean
POOL = 64  # units that elimination starts from
NEWTON, LBFGS = 50, 200  # iterations at most
EXACT = 1e-9  # squared Newton step below which the fit is done


@dataclass(frozen=True)
class Score:
    """Scores of one probe on held-out data. Each threshold is the best one on the training data, because 0.5 does not suit
    a rare label."""

    accuracy: float
    balanced_accuracy: float
    f1: float
    auroc: float


@dataclass(frozen=True)
class Sparse:
    """A probe on the units `chosen`, strongest first."""

    chosen: tuple[int, ...]
    score: Score


@dataclass(frozen=True)
class Probes:
    """Probes of one label in one basis: by number of units, on all units, and by number of units for shuffled labels."""

    by_k: dict[int, Sparse]
    dense: Score
    shuffled: dict[int, Sparse]


def probe(
    x: Matrix, labels: NDArray[np.bool_], train: NDArray[np.bool_], ks: Sequence[int] = (1, 2, 4, 8, 16), seed: int = 0
) -> list[Probes]:
    """One-vs-rest probes of `labels` [n, label] in units x [n, N] (an array or a `Code`), one `Probes` per label.

    k-sparse probing (Gurnee et al. 2023, 2305.01610): candidates are the 64 units whose means differ most between the
    classes (in standard deviations of the unit); a logistic probe is fitted on them repeatedly, each time on the strongest
    that are left, down to each k. The result is compared with the k units of the largest difference, and the set with the
    lower training loss is taken. The loss weights both classes equally and is penalised by PENALTY / 2 times the squared
    weights. Probes are fitted on the rows of `train` [n] and scored on the others. Raises ClocheError if a label lacks a
    class among the rows of either side, or a k is not in 1 to 64.
    """
    if not ks or min(ks) < 1 or max(ks) > POOL:
        raise ArgumentRange(f"ks={tuple(ks)} must be numbers of units from 1 to {POOL}.")
    if len(x) != len(labels) or len(train) != len(labels) or labels.ndim != 2:
        raise SignalsShape(
            f"Probing needs rows that agree: x has {len(x)}, labels {list(labels.shape)}, train {len(train)}; give labels "
            "[n, label] and train [n] for x [n, units]."
        )
    for side in (train, ~train):
        counts = labels[side].sum(0)
        if not side.any() or (counts == 0).any() or (counts == side.sum()).any():
            raise SignalsShape(
                "Every label needs both classes among the training rows and among the held-out rows; leave rarer labels out."
            )
    units = _Units(x, train)
    if not np.isfinite(units.mean).all():
        raise NotFinite(
            f"Unit {int(np.argmin(np.isfinite(units.mean)))} holds a value that is not a number; fix what made it."
        )
    dense = _dense(units, labels[train])
    order = np.random.default_rng(seed).permutation(len(labels))
    found = []
    for i, label in enumerate(labels.T):
        scores = units.held_out(dense.weights[:, i], dense.offsets[i])
        found.append(
            Probes(
                _by_k(units, label, ks),
                _score(dense.scores[:, i], label[train], scores, label[~train]),
                _by_k(units, _shuffled(label, order, train), ks),
            )
        )
    return found


def _shuffled(label: NDArray[np.bool_], order: NDArray[np.int64], train: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The label shuffled within the training rows and within the held-out rows."""
    out = label.copy()
    for side in (train, ~train):
        out[side] = label[order[side[order]]]
    return out


class _Units:
    """Units centred and scaled to standard deviation one over the training rows, without a dense copy of sparse ones."""

    def __init__(self, x: Matrix, train: NDArray[np.bool_]) -> None:
        columns = SparseColumns.of(x) if isinstance(x, Code) else DenseColumns(x)
        self.train = train
        self.fitted, self.rest = columns.rows(train), columns.rows(~train)
        total, squares = self.fitted.moments()
        count = self.fitted.shape[0]
        self.mean = total / count
        variance = squares / count - self.mean**2
        self.alive = variance > 1e-12 * (self.mean**2 + 1e-30)
        self.scale = np.where(self.alive, 1 / np.sqrt(np.where(self.alive, variance, 1)), 0)

    def some(self, which: Sequence[int], fitted: bool) -> Array:
        """[n, k] these units, standardised."""
        values = (self.fitted if fitted else self.rest).dense(which)
        return (values - self.mean[list(which)]) * self.scale[list(which)]

    def times(self, weights: Array) -> Array:
        """[n, label] all standardised units of the training rows times weights [N, label]."""
        scaled = weights * self.scale[:, None]
        return self.fitted.times(scaled) - self.mean @ scaled

    def transposed_times(self, slopes: Array) -> Array:
        """[N, label] the transpose times [n, label]."""
        return (self.fitted.transposed_times(slopes) - self.mean[:, None] * slopes.sum(0)) * self.scale[:, None]

    def held_out(self, weights: Array, offset: float) -> Array:
        """[n] scores of the held-out rows."""
        scaled = (weights * self.scale)[:, None]
        return (self.rest.times(scaled) - self.mean @ scaled)[:, 0] + offset


def _by_k(units: _Units, label: NDArray[np.bool_], ks: Sequence[int]) -> dict[int, Sparse]:
    """The best k units for one label and their score, for each k; all that vary, if a basis has fewer."""
    here, there = label[units.train], label[~units.train]
    pull = units.transposed_times(_balance(here)[:, None] * np.where(here, 1.0, -1.0)[:, None])[:, 0]
    ranked = [int(i) for i in np.argsort(-np.abs(pull), kind="stable")[:POOL] if units.alive[i]]
    kept = ranked
    found = {}
    for k in sorted(set(ks), reverse=True):
        if len(kept) > k:
            kept = _eliminated(units, here, kept, k)
        candidates = [kept] if set(kept) == set(ranked[:k]) else [kept, ranked[:k]]
        fits = [(_fit(units.some(c, True), here), c) for c in candidates]
        fit, chosen = min(fits, key=lambda pair: pair[0].loss)
        strongest = np.argsort(-np.abs(fit.weights[:, 0]), kind="stable")
        rest = units.some(chosen, False) @ fit.weights[:, 0] + fit.offsets[0]
        found[k] = Sparse(tuple(chosen[i] for i in strongest), _score(fit.scores[:, 0], here, rest, there))
    return dict(sorted(found.items()))


def _eliminated(units: _Units, label: NDArray[np.bool_], which: list[int], k: int) -> list[int]:
    """The k units with the largest weights by recursive elimination: half of the surplus is dropped at a time, so that one
    of two redundant units is dropped before the other is judged."""
    while len(which) > k:
        weights = _fit(units.some(which, True), label).weights[:, 0]
        order = np.argsort(-np.abs(weights), kind="stable")[: max(k, len(which) // 2)]
        which = [which[i] for i in order]
    return which


@dataclass(frozen=True)
class Fit:
    """Logistic regression: weights [units, label], offsets [label], scores [n, label] of the training rows, and the loss."""

    weights: Array
    offsets: Array
    scores: Array
    loss: float


def _balance(label: NDArray[np.bool_]) -> Array:
    """[n] weights of the rows, which sum to one half for each class."""
    return np.where(label, 0.5 / label.sum(), 0.5 / (~label).sum())


def _fit(x: Array, label: NDArray[np.bool_], penalty: float = PENALTY) -> Fit:
    """Fits one label on few units [n, k] by Newton's method with step halving."""
    rows = np.column_stack([x, np.ones(len(x))])
    weight, ridge = _balance(label), np.append(np.full(x.shape[1], penalty), 0.0)
    sign = np.where(label, 1.0, -1.0)

    def loss(at: Array) -> float:
        return float(weight @ np.logaddexp(0, -sign * (rows @ at)) + ridge @ at**2 / 2)

    w, now = np.zeros(rows.shape[1]), loss(np.zeros(rows.shape[1]))
    for _ in range(NEWTON):
        p = _sigmoid(rows @ w)
        slope = rows.T @ (weight * (p - label)) + ridge * w
        curve = (rows * (weight * p * (1 - p))[:, None]).T @ rows + np.diag(ridge + 1e-12)
        step = np.linalg.solve(curve, slope)
        size = 1.0
        while (new := loss(w - size * step)) > now and size > 1e-6:
            size /= 2
        w, now = w - size * step, new
        if slope @ step < EXACT:
            break
    return Fit(w[:-1, None], w[-1:], (rows @ w)[:, None], now)


def _dense(units: _Units, labels: NDArray[np.bool_], penalty: float = PENALTY) -> Fit:
    """Fits all labels [n, label] on all units at once: the losses are separate, so one L-BFGS over their sum minimises
    each."""
    count, names = len(units.mean), labels.shape[1]
    weight = np.stack([_balance(label) for label in labels.T], 1)
    sign = np.where(labels, 1.0, -1.0)

    def loss(flat: Array) -> tuple[float, Array]:
        w, b = flat[: count * names].reshape(count, names), flat[count * names :]
        z = units.times(w) + b
        slopes = weight * (_sigmoid(z) - labels)
        value = (weight * np.logaddexp(0, -sign * z)).sum() + penalty / 2 * (w**2).sum()
        slope = units.transposed_times(slopes) + penalty * w
        return float(value), np.concatenate([slope.ravel(), slopes.sum(0)])

    best, least = _minimised(loss, np.zeros((count + 1) * names))
    w, b = best[: count * names].reshape(count, names), best[count * names :]
    return Fit(w, b, units.times(w) + b, least)


def logistic(x: Array, labels: NDArray[np.bool_], penalty: float = PENALTY) -> Array:
    """Weights [units, label] of logistic regression on rows x [n, units], one label at a time, both classes weighted
    equally. The rows are whitened first, in which L-BFGS takes a few steps; the penalty is on the weights of the whitened
    units."""
    white, basis = whitened(x)
    units = _Units(white, np.ones(len(x), bool))
    return basis @ (_dense(units, labels, penalty).weights * units.scale[:, None])


def whitened(x: Array) -> tuple[Array, Array]:
    """Rows x [n, units] in a basis in which they are uncorrelated and vary by one, and that basis [units, units]; directions
    that hardly vary are not blown up beyond a thousand times."""
    centred = x.astype(np.float64) - x.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(x))
    basis = vectors / np.sqrt(np.maximum(values, 1e-6 * max(values[-1], 1e-300)))
    return np.ascontiguousarray(centred @ basis), basis


def _minimised(loss: Callable[[Array], tuple[float, Array]], start: Array) -> tuple[Array, float]:
    """Minimum of a smooth loss, given with its gradient, by L-BFGS with a strong Wolfe line search: (where, loss)."""
    at = torch.from_numpy(start).requires_grad_()
    found = torch.optim.LBFGS(
        [at],
        max_iter=LBFGS,
        tolerance_grad=1e-6,
        tolerance_change=1e-9,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        value, slope = loss(at.detach().numpy())
        at.grad = torch.from_numpy(slope)
        return value

    found.step(closure)
    best = at.detach().numpy()
    return best, loss(best)[0]


def _sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0, -x))


def _score(fitted: Array, label: NDArray[np.bool_], scores: Array, truth: NDArray[np.bool_]) -> Score:
    """Scores of held-out logits [n] against the truth, with thresholds from the logits of the training rows."""
    cuts, hits, false = _at_every_cut(fitted, label)

    def best(rate: Callable[..., Any]) -> float:
        cut = cuts[np.argmax(rate(hits, false, int(label.sum()), int((~label).sum())))]
        on = scores > cut
        return float(rate(np.sum(on & truth), np.sum(on & ~truth), int(truth.sum()), int((~truth).sum())))

    return Score(best(_accuracy), best(_balanced), best(_f1), auroc(scores, truth))


def _at_every_cut(scores: Array, label: NDArray[np.bool_]) -> tuple[Array, Array, Array]:
    """Thresholds between neighbouring scores and beyond the ends, and the number of each class above each."""
    order = np.argsort(-scores, kind="stable")
    falling, hit = scores[order], label[order]
    last = np.append(falling[1:] != falling[:-1], True)  # last of the rows that share a score
    between = np.append((falling[1:] + falling[:-1])[last[:-1]] / 2, -np.inf)
    cuts = np.concatenate([[np.inf], between])
    return cuts, np.append(0.0, hit.cumsum()[last]), np.append(0.0, (~hit).cumsum()[last])


def _accuracy(hits: Any, false: Any, yes: int, no: int) -> Any:
    return (hits + no - false) / (yes + no)


def _balanced(hits: Any, false: Any, yes: int, no: int) -> Any:
    return (hits / yes + (no - false) / no) / 2


def _f1(hits: Any, false: Any, yes: int, no: int) -> Any:
    return 2 * hits / (hits + false + yes)


def auroc(scores: Array, truth: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: the probability that a positive scores above a negative, ties counted half."""
    yes, no = int(truth.sum()), int((~truth).sum())
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (count.cumsum() - (count - 1) / 2)[place]  # from 1; ties share their mean rank
    return float((ranks[truth].sum() - yes * (yes + 1) / 2) / (yes * no))
