"""Orthogonal matching pursuit: adds the most correlated atom and refits all coefficients, repeatedly."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from cloche.errors import SettingConflict
from cloche.sparse.code import Code
from cloche.sparse.dictionary import Dictionary
from cloche.sparse.pursuit.base import (
    Pursuit,
    as_array,
    as_integers,
    by_correlations,
    check_amount,
    check_atoms,
    dependence_limit,
    fits_gram,
    recomputed,
    rounding_floor,
    trimmed,
    unexplained_limit,
)
from cloche.sparse.pursuit.omp_torch import omp_batched
from cloche.sparse.pursuit.signals import Signals, prepare


@dataclass(frozen=True)
class OMP(Pursuit):
    """Orthogonal matching pursuit (Pati et al. 1993), with the Gram kept as in Rubinstein et al. 2008 ("Batch-OMP").

    Stops at `k` atoms, or when the residual's norm (in the signals' units) is at most `residual`, whichever comes first; at
    least one must be given. A signal that is explained up to rounding stops early and leaves slots unused. On a CPU it is
    compiled (by numba, of the extra `sparse`) and needs the dictionary's Gram (N^2 numbers; above 2 GiB it uses the other
    path); elsewhere it is batched in torch, without the Gram. Both select the same atoms up to ties. Signals whose atoms
    are too close to dependent for the precision are recomputed in float64, without the Gram.

    >>> from cloche.sparse import SyntheticFeatures
    >>> from cloche.sparse.pursuit import OMP
    >>> data = SyntheticFeatures(width=16, features=24, active=2)
    >>> x, truth = data.sample(50)
    >>> code = OMP(k=2).encode(x, data.dictionary)
    >>> code.k, float((code.active == 2).float().mean())
    (2, 1.0)
    """

    k: int | None = None
    residual: float = 0.0

    def encode(self, x: Tensor, dictionary: Dictionary) -> Code:
        check_amount("residual", self.residual)
        if self.k is None and self.residual == 0:
            raise SettingConflict("OMP needs a stopping rule: give k (atoms per signal) or residual (a norm).")
        k = min(check_atoms(self.k, dictionary), dictionary.width)
        signals = prepare(x, dictionary)
        tolerance = signals.setting(self.residual)
        walk = _compiled if fits_gram(signals.rows, dictionary) and find_spec("numba") else _batched
        code, doubtful = walk(signals, dictionary, k, tolerance)

        def again(rows: Tensor) -> Code:
            atoms = dictionary.double().atoms
            indices, values, _ = omp_batched(signals.rows[rows].double(), atoms, k, tolerance[rows])
            return trimmed(indices, values, dictionary.size)

        return signals.restored(recomputed(code, doubtful, again))


def _batched(signals: Signals, dictionary: Dictionary, k: int, tolerance: Tensor) -> tuple[Code, Tensor]:
    indices, values, doubtful = omp_batched(signals.rows, dictionary.atoms, k, tolerance)
    return trimmed(indices, values, dictionary.size), doubtful & (values.dtype != torch.float64)


def _compiled(signals: Signals, dictionary: Dictionary, k: int, tolerance: Tensor) -> tuple[Code, Tensor]:
    from cloche.sparse.pursuit.kernels.omp_kernel import omp_rows

    x = signals.rows
    indices, values = torch.zeros(len(x), k, dtype=torch.int64), x.new_zeros(len(x), k)
    doubtful = torch.zeros(len(x), dtype=torch.bool)
    array, atoms, gram, enough = (as_array(given) for given in (x, dictionary.atoms, dictionary.gram, tolerance))
    limits = rounding_floor(x.dtype), dependence_limit(x.dtype), unexplained_limit(x.dtype)
    into = indices.numpy(), values.numpy(), doubtful.numpy()

    def kernel(rows: slice, scores: np.ndarray) -> None:
        bits, mask = as_integers(scores)
        place = (part[rows] for part in into)
        omp_rows(array[rows], atoms, gram, scores, bits, mask, k, enough[rows], *limits, *place)

    by_correlations(x, dictionary, kernel)
    return trimmed(indices, values, dictionary.size), doubtful
