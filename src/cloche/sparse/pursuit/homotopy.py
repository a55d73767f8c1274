"""Basis pursuit, basis pursuit denoising and the LARS path, all by the lasso's homotopy."""

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

_BENDS = 20  # allowed per path, for each dimension of the signals


@dataclass(frozen=True)
class BasisPursuit(Pursuit):
    """a of least |a|_1 with D a = x (Chen, Donoho & Saunders 1998), exactly, as the end of the lasso's path.

    Raises on signals outside the span of the atoms. Computed in float64, on a CPU only.

    >>> import torch
    >>> from cloche.sparse import Dictionary
    >>> from cloche.sparse.pursuit import BasisPursuit
    >>> dictionary = Dictionary(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
    >>> code = BasisPursuit().encode(torch.tensor([[0.6, 0.8]]), dictionary)  # one atom costs less than two
    >>> [round(value, 3) for value in code.dense()[0].tolist()]
    [0.0, 0.0, 1.0]
    """

    nonnegative: bool = False

    def encode(self, x: Tensor, dictionary: Dictionary) -> Code:
        signals = prepare_on_cpu(x, dictionary)
        goal = LeastNorm(as_array(dictionary.double().atoms), self.nonnegative, np.zeros(len(signals)))
        code, outside = _walk(signals, dictionary, goal)
        if outside:
            raise NotSolved(
                f"{outside:,} of {len(x):,} signals are no {'non-negative ' if self.nonnegative else ''}combination of the "
                f"{dictionary.size:,} atoms, so no code represents them exactly: use BasisPursuitDenoising(residual=...)."
            )
        return code


@dataclass(frozen=True)
class BasisPursuitDenoising(Pursuit):
    """a of least |a|_1 with |x - D a| <= `residual` (in the signals' units), exactly, as a point on the lasso's path.

    A signal with norm at most `residual` gets an empty code. Raises on signals that no code approximates so closely. In
    float64, on a CPU.

    >>> from cloche.sparse import SyntheticFeatures
    >>> from cloche.sparse.pursuit import BasisPursuitDenoising
    >>> data = SyntheticFeatures(width=16, features=24, active=2)
    >>> x, truth = data.sample(50)
    >>> code = BasisPursuitDenoising(residual=0.2).encode(x, data.dictionary)
    >>> error = (data.dictionary.decode(code) - x).norm(dim=1)
    >>> round(float(error.max()), 3)
    0.2
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
                f"{far:,} of {len(x):,} signals are further than {self.residual:g} from every combination of the atoms: use "
                "a larger residual, or add atoms."
            )
        return code


@dataclass(frozen=True)
class LARS(Pursuit):
    """The lasso's minimiser at `penalty`, exactly, by following its path (Efron et al. 2004); `path` gives all of it.

    The same code as `Lasso`, suited to few signals or if the whole path is needed. In float64, on a CPU only.

    >>> import torch
    >>> from cloche.sparse import Dictionary
    >>> from cloche.sparse.pursuit import LARS
    >>> penalties, codes = LARS(penalty=0.5).path(torch.tensor([3.0, 0.0, 1.0]), Dictionary(torch.eye(3)))
    >>> penalties.tolist(), codes.dense().tolist()
    ([3.0, 1.0, 0.5], [[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [2.5, 0.0, 0.5]])
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
        """(penalties [m] falling to `penalty`, the Code of the signal x [d] at each); coefficients are linear in between."""
        check_amount("penalty", self.penalty, zero=False)
        signals = prepare_on_cpu(x[None] if isinstance(x, Tensor) and x.ndim == 1 else x, dictionary)
        if len(signals) != 1:
            raise SignalsShape(f"A path is of one signal, but {len(signals):,} were given: pass one at a time.")
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

    Every result is checked against its optimality conditions. If it fails, which happens with (nearly) dependent atoms, the
    signal is solved again by the active set and checked again.
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
    """(penalties [m], coefficients [m, N]) at the bends of one path; none if it did not reach its end."""
    from cloche.sparse.pursuit.kernels.homotopy_kernel import homotopy

    most, size = _BENDS * dictionary.width, dictionary.size
    knots, coefs, slopes = np.zeros((most, 1 + size)), np.zeros(size), np.zeros(size)
    gram, q = as_array(dictionary.gram), as_array(dictionary.atoms) @ x
    settings = (dictionary.width, penalty, 0.0, nonnegative, most)
    bends = homotopy(q, float(x @ x), gram, *settings, coefs, slopes, knots)
    penalties, codes = knots[: bends + 1, 0], knots[: bends + 1, 1:]
    moved = np.ones(len(penalties), bool)
    moved[:-1] = penalties[:-1] > penalties[1:]  # joins at one penalty are one bend
    return penalties[moved], codes[moved]


def _is_path(
    x: np.ndarray, atoms: np.ndarray, penalties: np.ndarray, codes: np.ndarray, penalty: float, nonnegative: bool
) -> bool:
    """Whether a path reaches its end, and is optimal at every bend and halfway to the next."""
    if len(penalties) == 0 or penalties[-1] > penalty + 1e-12 * penalties[0]:
        return False
    levels = np.concatenate([penalties, (penalties[1:] + penalties[:-1]) / 2])
    between = np.concatenate([codes, (codes[1:] + codes[:-1]) / 2])
    goal = Penalised(atoms, nonnegative, levels)
    rows = np.broadcast_to(x, (len(levels), len(x)))
    return bool((goal.excess(slice(None), rows, between, rows) <= 0).all())
