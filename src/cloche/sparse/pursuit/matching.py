"""Matching pursuit: repeatedly subtracts the projection onto the most correlated atom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cloche.errors import SettingRange
from cloche.sparse.code import Code
from cloche.sparse.dictionary import Dictionary
from cloche.sparse.pursuit.base import (
    Pursuit,
    as_array,
    as_integers,
    by_correlations,
    check_amount,
    check_whole,
    fits_gram,
    in_batches,
    joined,
    packed,
    recomputed,
    rounding_floor,
    unexplained_limit,
)
from cloche.sparse.pursuit.signals import prepare


@dataclass(frozen=True)
class MatchingPursuit(Pursuit):
    """Matching pursuit (Mallat & Zhang 1993): `k` steps, each of which adds the atom with the largest correlation, by that
    correlation.

    An atom may be selected again, so a signal uses at most `k` atoms. Stops early when the residual's norm (in the signals'
    units) is at most `residual`, or is rounding. Compiled over the Gram on a CPU, batched torch elsewhere.

    >>> from cloche.sparse import SyntheticFeatures
    >>> from cloche.sparse.pursuit import MatchingPursuit
    >>> data = SyntheticFeatures(width=16, features=24, active=2)
    >>> x, truth = data.sample(50)
    >>> code = MatchingPursuit(k=200, residual=0.1).encode(x, data.dictionary)
    >>> error = (data.dictionary.decode(code) - x).norm(dim=1)
    >>> bool((error < 0.101).all())
    True
    """

    k: int
    residual: float = 0.0

    def encode(self, x: Tensor, dictionary: Dictionary) -> Code:
        check_amount("residual", self.residual)
        check_whole("k", self.k)
        if self.k < 1:
            raise SettingRange(f"Matching pursuit cannot run {self.k} steps: use at least one.")
        signals = prepare(x, dictionary)
        rows, tolerance = signals.rows, signals.setting(self.residual)
        walk = _compiled if fits_gram(rows, dictionary) else _batched
        code, doubtful = walk(rows, dictionary, self.k, tolerance)

        def again(chosen: Tensor) -> Code:
            return _batched(rows[chosen].double(), dictionary.double(), self.k, tolerance[chosen])[0]

        return signals.restored(recomputed(code, doubtful, again))


def _batched(x: Tensor, dictionary: Dictionary, steps: int, tolerance: Tensor) -> tuple[Code, Tensor]:
    return in_batches(
        dictionary, lambda piece, enough: matching_batched(piece, dictionary.atoms, steps, enough), x, tolerance
    )


@torch.no_grad()
def matching_batched(x: Tensor, atoms: Tensor, steps: int, tolerance: Tensor) -> tuple[Code, Tensor]:
    """The same in torch for signals x [n, d], one matrix product a step and no Gram, and [n] whether a signal ended with much
    left and correlations too small for this precision. `tolerance` [n] are the norms of residuals to stop at."""
    residual, coefs = x.clone(), x.new_zeros(len(x), len(atoms))
    squares, size = atoms.square().sum(1), torch.linalg.vector_norm(x, dim=1)
    going = torch.ones_like(size, dtype=torch.bool)
    doubtful = torch.zeros_like(going)
    for _ in range(steps):
        scores = residual @ atoms.T
        new = scores.abs().argmax(1, keepdim=True)
        score, left = scores.gather(1, new), torch.linalg.vector_norm(residual, dim=1)
        silent = score[:, 0].abs() <= rounding_floor(x.dtype) * size
        going &= left > tolerance
        doubtful |= going & silent & (score[:, 0] != 0) & (left.square() > unexplained_limit(x.dtype) * size.square())
        going &= ~silent
        if not bool(going.any()):
            break
        amount = torch.where(going[:, None], score / squares[new], 0)
        coefs.scatter_add_(1, new, amount)
        residual -= amount * atoms[new[:, 0]]
    return packed(coefs), doubtful


def _compiled(x: Tensor, dictionary: Dictionary, steps: int, tolerance: Tensor) -> tuple[Code, Tensor]:
    from cloche.sparse.pursuit.kernels.matching_kernel import matching_rows

    signals, atoms, gram, enough = (as_array(given) for given in (x, dictionary.atoms, dictionary.gram, tolerance))
    doubtful = torch.zeros(len(x), dtype=torch.bool)
    limits, doubts = (rounding_floor(x.dtype), unexplained_limit(x.dtype)), doubtful.numpy()

    def kernel(rows: slice, scores: np.ndarray) -> Code:
        bits, mask = as_integers(scores)
        matching_rows(signals[rows], atoms, gram, scores, bits, mask, steps, enough[rows], *limits, doubts[rows])
        return packed(torch.from_numpy(scores))

    return joined(by_correlations(x, dictionary, kernel), dictionary), doubtful
