"""Matching pursuit: the strongest atom takes its share of what is left, again and again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cloche.errors import ClocheError
from cloche.sparse.code import Code
from cloche.sparse.dictionary import Dictionary
from cloche.sparse.pursuit.base import (
    Pursuit,
    as_array,
    as_integers,
    by_correlations,
    check_amount,
    fits_gram,
    floor_of,
    in_batches,
    joined,
    packed,
    prepare,
)


@dataclass(frozen=True)
class MatchingPursuit(Pursuit):
    """Matching pursuit (Mallat & Zhang 1993): `steps` times the atom of the largest correlation, by that correlation.

    An atom may come again, so a signal uses at most `steps` atoms. Stops before where the residual's norm (in the signals'
    units) is at most `residual`, or where what is left is rounding. Compiled over the Gram on a CPU, batched torch elsewhere.
    """

    steps: int
    residual: float = 0.0

    def encode(self, x: Tensor, dictionary: Dictionary) -> Code:
        check_amount("residual", self.residual)
        if self.steps < 1:
            raise ClocheError(f"Matching pursuit cannot take {self.steps} steps: give it at least one.")
        signals = prepare(x, dictionary)
        if fits_gram(signals, dictionary):
            return _compiled(self, signals, dictionary)
        return in_batches(signals, dictionary, lambda piece: matching_batched(piece, dictionary.atoms, self))


@torch.no_grad()
def matching_batched(x: Tensor, atoms: Tensor, pursuit: MatchingPursuit) -> Code:
    """The same in torch for signals x [n, d], one matrix product a step and no Gram."""
    residual, amounts = x.clone(), x.new_zeros(len(x), len(atoms))
    squares = atoms.square().sum(1)
    least = floor_of(x.dtype) * torch.linalg.vector_norm(x, dim=1)
    going = torch.ones_like(least, dtype=torch.bool)
    for _ in range(pursuit.steps):
        scores = residual @ atoms.T
        new = scores.abs().argmax(1, keepdim=True)
        score = scores.gather(1, new)
        going &= (torch.linalg.vector_norm(residual, dim=1) > pursuit.residual) & (score[:, 0].abs() > least)
        if not bool(going.any()):
            break
        amount = torch.where(going[:, None], score / squares[new], 0)
        amounts.scatter_add_(1, new, amount)
        residual -= amount * atoms[new[:, 0]]
    return packed(amounts)


def _compiled(pursuit: MatchingPursuit, x: Tensor, dictionary: Dictionary) -> Code:
    from cloche.sparse.pursuit.matching_kernel import matching_rows

    signals, atoms, gram = as_array(x), as_array(dictionary.atoms), as_array(dictionary.gram)
    floor = floor_of(x.dtype)

    def kernel(rows: slice, scores: np.ndarray) -> Code:
        bits, mask = as_integers(scores)
        matching_rows(signals[rows], atoms, gram, scores, bits, mask, pursuit.steps, float(pursuit.residual), floor)
        return packed(torch.from_numpy(scores))

    return joined(by_correlations(x, dictionary, kernel), dictionary)
