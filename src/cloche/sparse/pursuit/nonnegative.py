"""Orthogonal matching pursuit that only adds: no amount may be negative."""

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
    by_correlations,
    check_amount,
    check_atoms,
    floor_of,
    joined,
    packed,
    prepare_on_cpu,
)


@dataclass(frozen=True)
class NonNegativeOMP(Pursuit):
    """Non-negative orthogonal matching pursuit (Bruckstein, Elad & Zibulevsky 2008): the code a TopK autoencoder ought to find.

    Each step adds the atom of the largest positive correlation and refits all amounts by non-negative least squares, which may
    let atoms go. Stops at `k` atoms, at a residual of norm `residual`, or where no positive correlation is left. On a CPU only.
    """

    k: int | None = None
    residual: float = 0.0

    def encode(self, x: Tensor, dictionary: Dictionary) -> Code:
        check_amount("residual", self.residual)
        if self.k is None and self.residual == 0:
            raise ClocheError(
                "Non-negative OMP has no rule to stop by: give it k (atoms a signal) or residual (a norm)."
            )
        k = min(check_atoms(self.k, dictionary), dictionary.width)
        signals = prepare_on_cpu(x, dictionary)
        from cloche.sparse.pursuit.nonnegative_kernel import nonnegative_rows

        rows_of, atoms, gram = as_array(signals), as_array(dictionary.atoms), as_array(dictionary.gram)

        def kernel(rows: slice, scores: np.ndarray) -> Code:
            nonnegative_rows(rows_of[rows], atoms, gram, scores, k, float(self.residual), floor_of(signals.dtype))
            return packed(torch.from_numpy(scores))

        return joined(by_correlations(signals, dictionary, kernel), dictionary)
