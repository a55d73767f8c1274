"""The lasso and the elastic net as encoders: coordinate descent on the Gram, stopped by the duality gap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cloche.sparse.code import Code
from cloche.sparse.dictionary import Dictionary
from cloche.sparse.pursuit import active_set
from cloche.sparse.pursuit.base import (
    Pursuit,
    as_array,
    by_correlations,
    check_amount,
    joined,
    packed,
    recomputed,
    warn_short,
)
from cloche.sparse.pursuit.signals import Signals, prepare_on_cpu

ROUNDS = 100  # working sets before giving up on a signal
_SINGLY = 1_000  # signals that may be solved one by one
_UNSURE = 100  # times the gap that the worst case of a Gram's rounding may come to


@dataclass(frozen=True)
class ElasticNet(Pursuit):
    """a minimising 1/2 |x - D a|^2 + penalty |a|_1 + ridge/2 |a|^2 (Zou & Hastie 2005), by coordinate descent on the Gram.

    Stops when the duality gap is at most `gap` |x|^2; warns about signals that have not converged. `nonnegative` excludes
    negative coefficients. `penalty` has the units of a correlation: a signal with all correlations below it gets an empty
    code (scikit-learn's alpha is penalty / d). On a CPU only; elsewhere use FISTA.

    >>> from cloche.sparse import SyntheticFeatures
    >>> from cloche.sparse.pursuit import ElasticNet
    >>> data = SyntheticFeatures(width=16, features=24, active=2)
    >>> x, truth = data.sample(50)
    >>> code = ElasticNet(penalty=0.1, ridge=0.5, nonnegative=True).encode(x, data.dictionary)
    >>> bool((code.values >= 0).all())
    True
    """

    penalty: float
    ridge: float = 0.0
    nonnegative: bool = False
    gap: float = 1e-6

    def encode(self, x: Tensor, dictionary: Dictionary) -> Code:
        check_amount("penalty", self.penalty, zero=False)
        check_amount("ridge", self.ridge)
        check_amount("gap", self.gap, zero=False)
        signals = prepare_on_cpu(x, dictionary)
        return _descend(self, signals, dictionary)


@dataclass(frozen=True)
class Lasso(Pursuit):
    """a minimising 1/2 |x - D a|^2 + penalty |a|_1 (Tibshirani 1996; basis pursuit denoising in Lagrange's form).

    The elastic net without ridge; see `ElasticNet`.

    >>> from cloche.sparse import SyntheticFeatures
    >>> from cloche.sparse.pursuit import Lasso
    >>> data = SyntheticFeatures(width=16, features=24, active=2)
    >>> x, truth = data.sample(50)
    >>> code = Lasso(penalty=0.1).encode(x, data.dictionary)
    >>> left = (x - data.dictionary.decode(code)) @ data.dictionary.atoms.T
    >>> round(float(left.abs().max()), 3)  # no correlation exceeds the penalty
    0.1
    """

    penalty: float
    nonnegative: bool = False
    gap: float = 1e-6

    def encode(self, x: Tensor, dictionary: Dictionary) -> Code:
        return ElasticNet(self.penalty, 0.0, self.nonnegative, self.gap).encode(x, dictionary)


def _descend(net: ElasticNet, signals: Signals, dictionary: Dictionary) -> Code:
    """Descent in the dictionary's precision, in float64 for signals that have not converged, then exactly one by one."""
    penalties = signals.setting(net.penalty)
    code, short = _compiled(net, signals.rows, dictionary, penalties)
    still = torch.zeros_like(short)

    def again(rows: Tensor) -> Code:
        exact, short = _compiled(net, signals.rows[rows].double(), dictionary.double(), penalties[rows])
        by_itself = rows[short][:_SINGLY]
        still[rows[short][_SINGLY:]] = True
        start = exact.dense()[short].numpy()
        return recomputed(exact, short & ~still[rows], lambda _: one_by_one(by_itself, start))

    def one_by_one(rows: Tensor, start: np.ndarray) -> Code:
        atoms, x = as_array(dictionary.double().atoms), as_array(signals.rows[rows].double())
        answers = np.zeros((len(x), len(atoms)))
        for row, penalty in enumerate(penalties[rows].tolist()):
            answers[row] = active_set.lasso(atoms, x[row], penalty, net.ridge, net.nonnegative, start[row])
            gap = active_set.duality_gap(atoms, x[row], answers[row], penalty, net.ridge, net.nonnegative)
            still[rows[row]] = not gap <= net.gap * float(x[row] @ x[row])
        return packed(torch.from_numpy(answers))

    code = recomputed(code, short, again)
    warn_short(int(still.sum()), len(signals), net.gap)
    return signals.restored(code)


def _compiled(net: ElasticNet, x: Tensor, dictionary: Dictionary, penalties: Tensor) -> tuple[Code, Tensor]:
    from cloche.sparse.pursuit.kernels.descent_kernel import lasso_rows

    signals, gram, penalty, gaps = as_array(x), as_array(dictionary.gram), as_array(penalties), np.zeros(len(x))
    settings = float(net.ridge), net.nonnegative, float(net.gap)

    def kernel(rows: slice, scores: np.ndarray) -> Code:
        lasso_rows(signals[rows], gram, scores, penalty[rows], *settings, ROUNDS, gaps[rows])
        return packed(torch.from_numpy(scores))

    code = joined(by_correlations(x, dictionary, kernel), dictionary)
    # The gap was measured with the Gram: its rounding, times the coefficients, must not exceed the gap.
    rounding = torch.finfo(x.dtype).eps * code.values.double().abs().sum(1).square()
    energy = x.double().square().sum(1)
    return code, ~(torch.from_numpy(gaps) <= net.gap) | (rounding > _UNSURE * net.gap * energy)
