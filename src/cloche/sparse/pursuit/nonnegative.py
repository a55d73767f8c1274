"""Non-negative orthogonal matching pursuit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cloche.errors import SettingConflict
from cloche.sparse.code import Code
from cloche.sparse.dictionary import Dictionary
from cloche.sparse.pursuit.active_set import positive_matching
from cloche.sparse.pursuit.base import (
    Pursuit,
    as_array,
    by_correlations,
    check_amount,
    check_atoms,
    dependence_limit,
    joined,
    packed,
    recomputed,
    rounding_floor,
    unexplained_limit,
)
from cloche.sparse.pursuit.signals import prepare_on_cpu


@dataclass(frozen=True)
class NonNegativeOMP(Pursuit):
    """Non-negative orthogonal matching pursuit (Bruckstein, Elad & Zibulevsky 2008): the code that a TopK autoencoder
    ideally finds.

    Each step adds the atom of the largest positive correlation and refits all coefficients by non-negative least squares,
    which may drop atoms. Stops at `k` atoms, at a residual of norm `residual`, or when no positive correlation is left. On
    a CPU only.

    >>> from cloche.sparse import SyntheticFeatures
    >>> from cloche.sparse.pursuit import NonNegativeOMP
    >>> data = SyntheticFeatures(width=16, features=24, active=2)
    >>> x, truth = data.sample(50)
    >>> code = NonNegativeOMP(k=2).encode(x, data.dictionary)
    >>> code.k, bool((code.values >= 0).all())
    (2, True)
    """

    k: int | None = None
    residual: float = 0.0

    def encode(self, x: Tensor, dictionary: Dictionary) -> Code:
        check_amount("residual", self.residual)
        if self.k is None and self.residual == 0:
            raise SettingConflict(
                "Non-negative OMP needs a stopping rule: give k (atoms per signal) or residual (a norm)."
            )
        k = min(check_atoms(self.k, dictionary), dictionary.width)
        signals = prepare_on_cpu(x, dictionary)
        tolerance = signals.setting(self.residual)
        code, doubtful = _compiled(signals.rows, dictionary, k, tolerance)

        def again(rows: Tensor) -> Code:
            atoms, x = as_array(dictionary.double().atoms), as_array(signals.rows[rows].double())
            floor = rounding_floor(torch.float64)
            exact = [
                positive_matching(atoms, row, k, float(enough), floor)
                for row, enough in zip(x, tolerance[rows], strict=True)
            ]
            return packed(torch.from_numpy(np.stack(exact)))

        return signals.restored(recomputed(code, doubtful, again))


def _compiled(x: Tensor, dictionary: Dictionary, k: int, tolerance: Tensor) -> tuple[Code, Tensor]:
    from cloche.sparse.pursuit.kernels.nonnegative_kernel import nonnegative_rows

    array, atoms, gram, enough = (as_array(given) for given in (x, dictionary.atoms, dictionary.gram, tolerance))
    doubtful = torch.zeros(len(x), dtype=torch.bool)
    limits, doubts = (rounding_floor(x.dtype), dependence_limit(x.dtype), unexplained_limit(x.dtype)), doubtful.numpy()

    def kernel(rows: slice, scores: np.ndarray) -> Code:
        nonnegative_rows(array[rows], atoms, gram, scores, k, enough[rows], *limits, doubts[rows])
        return packed(torch.from_numpy(scores))

    return joined(by_correlations(x, dictionary, kernel), dictionary), doubtful
