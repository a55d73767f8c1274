"""Pursuits: encoders that need no training, only a dictionary. Compiled on a CPU, batched torch elsewhere."""

from glasshouse.sparse.pursuit.base import Pursued, Pursuit
from glasshouse.sparse.pursuit.fista import FISTA
from glasshouse.sparse.pursuit.homotopy import LARS, BasisPursuit, BasisPursuitDenoising
from glasshouse.sparse.pursuit.lasso import ElasticNet, Lasso
from glasshouse.sparse.pursuit.matching import MatchingPursuit
from glasshouse.sparse.pursuit.nonnegative import NonNegativeOMP
from glasshouse.sparse.pursuit.omp import OMP
from glasshouse.sparse.pursuit.thresholding import IHT, HardThresholdingPursuit

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
