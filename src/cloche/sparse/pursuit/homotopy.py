"""Basis pursuit, basis pursuit denoising and the LARS path: three stops on one road, the lasso's homotopy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cloche.errors import NotSolved, SignalsShape
from cloche.sparse.code import Code
from cloche.sparse.dictionary import Dictionary
from cloche.sparse.pursuit import active_set
from cloche.sparse.pursuit.base import Pursuit, as_array, by_correlations, check_amount, joined, packed
from cloche.sparse.pursuit.optimality import Denoised, LeastNorm, Minimum, Penalised, unsolved
from cloche.sparse.pursuit.signals import Signals, prepare_on_cpu

_BENDS = 20  # allowed a path, for each dimension of the signals


@dataclass(frozen=True)
class BasisPursuit(Pursuit):
    """a of least |a|_1 with D a = x (Chen, Donoho & Saunders 1998), exactly, as the end of the lasso's path.

    Refuses signals that lie outside the span of the atoms. Computed in float64, on a CPU only.
    """

    nonnegative: bool = False

    def encode(self, x: Tensor, dictionary: Dictionary) -> Code:
        signals = prepare_on_cpu(x, dictionary)
        goal = LeastNorm(as_array(dictionary.double().atoms), self.nonnegative, np.zeros(len(signals)))
        code, outside = _walk(signals, dictionary, goal)
        if outside:
            raise NotSolved(
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
        signals = prepare_on_cpu(x, dictionary)
        bounds = as_array(signals.setting(self.residual))
        code, far = _walk(signals, dictionary, Denoised(as_array(dictionary.double().atoms), self.nonnegative, bounds))
        if far:
            raise NotSolved(
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
        signals = prepare_on_cpu(x, dictionary)
        penalties = as_array(signals.setting(self.penalty))
        return _walk(signals, dictionary, Penalised(as_array(dictionary.double().atoms), self.nonnegative, penalties))[
            0
        ]

    def path(self, x: Tensor, dictionary: Dictionary) -> tuple[Tensor, Code]:
        """(penalties [m] falling to `penalty`, the Code of the signal x [d] at each); amounts are straight between."""
        check_amount("penalty", self.penalty, zero=False)
        signals = prepare_on_cpu(x[None] if isinstance(x, Tensor) and x.ndim == 1 else x, dictionary)
        if len(signals) != 1:
            raise SignalsShape(f"A path is of one signal, and {len(signals):,} were given: ask for one at a time.")
        double, penalty = dictionary.double(), float(signals.setting(self.penalty))
        atoms, row = as_array(double.atoms), as_array(signals.rows[0].double())
        penalties, codes = _knots(row, double, penalty, self.nonnegative)
        if not _is_path(row, atoms, penalties, codes, penalty, self.nonnegative):
            penalties, codes = active_set.path(atoms, row, penalty, self.nonnegative)
            if not _is_path(row, atoms, penalties, codes, penalty, self.nonnegative):
                raise unsolved("The path of the signal")
        alike = Signals(double.atoms.new_zeros(len(codes), 0), signals.exponent.expand(len(codes)))
        return alike.unscaled(torch.from_numpy(penalties)), alike.restored(packed(torch.from_numpy(codes)))


def _walk(signals: Signals, dictionary: Dictionary, goal: Minimum) -> tuple[Code, int]:
    """(the code at the end of each path, how many signals have none).

    Every end is checked against the conditions of its optimality. Where it fails them, which takes atoms that are nearly or
    exactly dependent, the signal is solved by itself and checked again.
    """
    from cloche.sparse.pursuit.kernels.homotopy_kernel import homotopy_rows

    double, rows_of = dictionary.double(), signals.rows.double()
    array, gram, most = as_array(rows_of), as_array(double.gram), _BENDS * dictionary.width
    none = np.zeros(len(signals), bool)

    def kernel(rows: slice, scores: np.ndarray) -> Code:
        slopes = np.zeros_like(scores)
        homotopy_rows(array[rows], gram, scores, *goal.ends(rows), goal.nonnegative, most, slopes)
        none[rows] = goal.settle(rows, array[rows], scores, slopes @ goal.atoms)
        code = packed(torch.from_numpy(scores))
        return Code(code.indices, code.values.to(dictionary.atoms.dtype), code.size)

    code = joined(by_correlations(rows_of, double, kernel), dictionary)
    return signals.restored(code), int(none.sum())


def _knots(x: np.ndarray, dictionary: Dictionary, penalty: float, nonnegative: bool) -> tuple[np.ndarray, np.ndarray]:
    """(penalties [m], amounts [m, N]) at the bends of one path; none where it did not come to its end."""
    from cloche.sparse.pursuit.kernels.homotopy_kernel import homotopy

    most, size = _BENDS * dictionary.width, dictionary.size
    knots, amounts, slopes = np.zeros((most, 1 + size)), np.zeros(size), np.zeros(size)
    gram, q = as_array(dictionary.gram), as_array(dictionary.atoms) @ x
    settings = (dictionary.width, penalty, 0.0, nonnegative, most)
    bends = homotopy(q, float(x @ x), gram, *settings, amounts, slopes, knots)
    penalties, codes = knots[: bends + 1, 0], knots[: bends + 1, 1:]
    moved = np.ones(len(penalties), bool)
    moved[:-1] = penalties[:-1] > penalties[1:]  # joins at one penalty are one bend
    return penalties[moved], codes[moved]


def _is_path(
    x: np.ndarray, atoms: np.ndarray, penalties: np.ndarray, codes: np.ndarray, penalty: float, nonnegative: bool
) -> bool:
    """Whether a path comes to its end, and is optimal at every bend and halfway to the next."""
    if len(penalties) == 0 or penalties[-1] > penalty + 1e-12 * penalties[0]:
        return False
    levels = np.concatenate([penalties, (penalties[1:] + penalties[:-1]) / 2])
    between = np.concatenate([codes, (codes[1:] + codes[:-1]) / 2])
    goal = Penalised(atoms, nonnegative, levels)
    rows = np.broadcast_to(x, (len(levels), len(x)))
    return bool((goal.excess(slice(None), rows, between, rows) <= 0).all())
