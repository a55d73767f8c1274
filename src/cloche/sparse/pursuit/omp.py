"""Orthogonal matching pursuit: the strongest atom, then the best amounts for all those chosen, again and again."""

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
    check_atoms,
    fits_gram,
    floor_of,
    prepare,
    trimmed,
)


@dataclass(frozen=True)
class OMP(Pursuit):
    """Orthogonal matching pursuit (Pati et al. 1993), with the Gram kept as in Rubinstein et al. 2008 ("Batch-OMP").

    Stops at `k` atoms, or where the residual's norm (in the signals' units) is at most `residual`, whichever comes first; at
    least one must be given. A signal that is explained to rounding stops early, and its later slots stay unused. On a CPU it is
    compiled and needs the dictionary's Gram (N^2 numbers; beyond 2 GiB it takes the other path); elsewhere it is
    batched in torch, without the Gram. Both choose the same atoms up to ties.
    """

    k: int | None = None
    residual: float = 0.0

    def encode(self, x: Tensor, dictionary: Dictionary) -> Code:
        check_amount("residual", self.residual)
        if self.k is None and self.residual == 0:
            raise ClocheError("OMP has no rule to stop by: give it k (atoms a signal) or residual (a norm).")
        k = check_atoms(self.k, dictionary)
        signals = prepare(x, dictionary)
        if fits_gram(signals, dictionary):
            indices, values = _compiled(signals, dictionary, min(k, dictionary.width), self.residual)
        else:
            from cloche.sparse.pursuit.omp_torch import omp_batched

            indices, values = omp_batched(signals, dictionary.atoms, min(k, dictionary.width), self.residual)
        return trimmed(indices, values, dictionary.size)


def _compiled(x: Tensor, dictionary: Dictionary, k: int, tolerance: float) -> tuple[Tensor, Tensor]:
    from cloche.sparse.pursuit.omp_kernel import omp_rows

    indices, values = torch.zeros(len(x), k, dtype=torch.int64), x.new_zeros(len(x), k)
    signals, atoms, gram = as_array(x), as_array(dictionary.atoms), as_array(dictionary.gram)
    floor, into_indices, into_values = floor_of(x.dtype), indices.numpy(), values.numpy()

    def kernel(rows: slice, scores: np.ndarray) -> None:
        bits, mask = as_integers(scores)
        into = into_indices[rows], into_values[rows]
        omp_rows(signals[rows], atoms, gram, scores, bits, mask, k, float(tolerance), floor, *into)

    by_correlations(x, dictionary, kernel)
    return indices, values
