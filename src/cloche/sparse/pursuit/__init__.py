"""Pursuits: sparse coding over a given dictionary, without training. Compiled on a CPU, batched torch elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.sparse.pursuit.base import Pursued, Pursuit
    from cloche.sparse.pursuit.fista import FISTA
    from cloche.sparse.pursuit.homotopy import LARS, BasisPursuit, BasisPursuitDenoising
    from cloche.sparse.pursuit.lasso import ElasticNet, Lasso
    from cloche.sparse.pursuit.matching import MatchingPursuit
    from cloche.sparse.pursuit.nonnegative import NonNegativeOMP
    from cloche.sparse.pursuit.omp import OMP
    from cloche.sparse.pursuit.thresholding import IHT, HardThresholdingPursuit

__all__ = [
    "FISTA",
    "IHT",
    "LARS",
    "OMP",
    "BasisPursuit",
    "BasisPursuitDenoising",
    "ElasticNet",
    "HardThresholdingPursuit",
    "Lasso",
    "MatchingPursuit",
    "NonNegativeOMP",
    "Pursued",
    "Pursuit",
]

__getattr__ = lazy(__name__)
