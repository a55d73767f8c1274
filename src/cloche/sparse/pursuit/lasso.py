"""The lasso and the elastic net as encoders: coordinate descent on the Gram, stopped by the duality gap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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
    warn_short,
)

ROUNDS = 100  # working sets before a signal is given up


@dataclass(frozen=True)
class ElasticNet(Pursuit):
    """a minimising 1/2 |x - D a|^2 + penalty |a|_1 + ridge/2 |a|^2 (Zou & Hastie 2005), by coordinate descent on the Gram.

    Stops where the duality gap is at most `gap` |x|^2; warns of signals that do not get there. `nonnegative` allows
    no negative amounts. `penalty` is in the units of a correlation: a signal whose correlations all stay beneath gets an empty
    code (scikit-learn's alpha is penalty / d). On a CPU only; elsewhere take FISTA.
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

    The elastic net without its ridge: see `ElasticNet` for the rest.
    """

    penalty: float
    nonnegative: bool = False
    gap: float = 1e-6

    def encode(self, x: Tensor, dictionary: Dictionary) -> Code:
        return ElasticNet(self.penalty, 0.0, self.nonnegative, self.gap).encode(x, dictionary)


def _descend(net: ElasticNet, x: Tensor, dictionary: Dictionary) -> Code:
    from cloche.sparse.pursuit.descent_kernel import lasso_rows

    signals, gram = as_array(x), as_array(dictionary.gram)
    gaps = np.zeros(len(x))

    def kernel(rows: slice, scores: np.ndarray) -> Code:
        settings = float(net.penalty), float(net.ridge), net.nonnegative, float(net.gap)
        lasso_rows(signals[rows], gram, scores, *settings, ROUNDS, gaps[rows])
        return packed(torch.from_numpy(scores))

    codes = by_correlations(x, dictionary, kernel)
    warn_short(int((gaps > net.gap).sum()), len(x), net.gap)
    return joined(codes, dictionary)
