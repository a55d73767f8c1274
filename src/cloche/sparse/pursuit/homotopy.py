"""Basis pursuit, basis pursuit denoising and the LARS path: three stops on one road, the lasso's homotopy."""

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
    joined,
    packed,
    prepare_on_cpu,
)

_BENDS = 20  # allowed a path, for each dimension of the signals
EXACT = 1e-6  # share of a signal's norm that counts as nothing left


@dataclass(frozen=True)
class BasisPursuit(Pursuit):
    """a of least |a|_1 with D a = x (Chen, Donoho & Saunders 1998), exactly, as the end of the lasso's path.

    Refuses signals that lie outside the span of the atoms. Computed in float64, on a CPU only.
    """

    nonnegative: bool = False

    def encode(self, x: Tensor, dictionary: Dictionary) -> Code:
        code, left, norms = _walk(x, dictionary, 0.0, 0.0, self.nonnegative)
        outside = int((left > EXACT * norms).sum())
        if outside:
            raise ClocheError(
                f"{outside:,} of {len(x):,} signals are no {'non-negative ' if self.nonnegative else ''}combination of the "
                f"{dictionary.size:,} atoms, so no code gives them back exactly: take BasisPursuitDenoising(residual=...)."
            )
        return code


@dataclass(frozen=True)
class BasisPursuitDenoising(Pursuit):
    """a of least |a|_1 with |x - D a| <= `residual` (in the signals' units), exactly, as a point on the lasso's path.

    A signal no longer than `residual` gets an empty code. Refuses signals that no code brings so near. In float64, on a CPU.
    """

    residual: float
    nonnegative: bool = False

    def encode(self, x: Tensor, dictionary: Dictionary) -> Code:
        check_amount("residual", self.residual, zero=False)
        code, left, norms = _walk(x, dictionary, 0.0, self.residual, self.nonnegative)
        far = int((left > self.residual + EXACT * norms).sum())
        if far:
            raise ClocheError(
                f"{far:,} of {len(x):,} signals stay further than {self.residual:g} from every combination of the atoms: ask "
                "for a larger residual, or add atoms."
            )
        return code


@dataclass(frozen=True)
class LARS(Pursuit):
    """The lasso's minimiser at `penalty`, exactly, by following its path (Efron et al. 2004); `path` gives all of it.

    The same code as `Lasso`; made for few signals, or where the whole path is wanted. In float64, on a CPU only.
    """

    penalty: float
    nonnegative: bool = False

    def encode(self, x: Tensor, dictionary: Dictionary) -> Code:
        check_amount("penalty", self.penalty, zero=False)
        return _walk(x, dictionary, self.penalty, 0.0, self.nonnegative)[0]

    def path(self, x: Tensor, dictionary: Dictionary) -> tuple[Tensor, Code]:
        """(penalties [m] falling to `penalty`, the Code of the signal x [d] at each); amounts are straight between."""
        check_amount("penalty", self.penalty, zero=False)
        double = dictionary.double()
        signal = prepare_on_cpu(x[None] if x.ndim == 1 else x, dictionary).double()
        if len(signal) != 1:
            raise ClocheError(f"A path is of one signal, and {len(signal):,} were given: ask for one at a time.")
        from cloche.sparse.pursuit.homotopy_kernel import homotopy

        most = _BENDS * dictionary.width
        knots, amounts = np.zeros((most, 1 + dictionary.size)), np.zeros(dictionary.size)
        q, energy = as_array((signal @ double.atoms.T)[0]), float(signal.square().sum())
        gram, settings = as_array(double.gram), (dictionary.width, float(self.penalty), 0.0, self.nonnegative, most)
        bends, *_ = homotopy(q, energy, gram, *settings, amounts, knots)
        _check_arrived(int(bends < 0), 1)
        penalties, codes = torch.from_numpy(knots[: bends + 1, 0]), torch.from_numpy(knots[: bends + 1, 1:])
        moved = torch.ones(len(penalties), dtype=torch.bool)
        moved[:-1] = penalties[:-1] > penalties[1:]  # joins at one penalty are one bend
        return penalties[moved], packed(codes[moved])


def _walk(
    x: Tensor, dictionary: Dictionary, penalty: float, residual: float, nonnegative: bool
) -> tuple[Code, Tensor, Tensor]:
    """(the code at the end of each path, norms of the residuals, norms of the signals)."""
    signals = prepare_on_cpu(x, dictionary).double()
    from cloche.sparse.pursuit.homotopy_kernel import homotopy_rows

    double = dictionary.double()
    gram, array = as_array(double.gram), as_array(signals)
    reached = np.zeros((len(x), 3))

    def kernel(rows: slice, scores: np.ndarray) -> Code:
        most = _BENDS * dictionary.width
        homotopy_rows(array[rows], gram, scores, float(penalty), float(residual), nonnegative, most, reached[rows])
        return packed(torch.from_numpy(scores))

    code = joined(by_correlations(signals, double, kernel), double)
    _check_arrived(int((reached[:, 0] < 0).sum()), len(x))
    left = torch.linalg.vector_norm(signals - Dictionary(double.atoms).decode(code), dim=1)
    single = Code(code.indices, code.values.to(dictionary.atoms.dtype), code.size)
    return single, left, torch.linalg.vector_norm(signals, dim=1)


def _check_arrived(lost: int, n: int) -> None:
    if lost:
        raise ClocheError(
            f"The path of {lost:,} of {n:,} signals did not come to its end, most often because of repeated atoms: leave "
            "duplicates out of the dictionary, or take Lasso."
        )
