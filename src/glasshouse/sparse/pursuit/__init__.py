"""Pursuits: encoders that need no training, only a dictionary. Compiled on a CPU, batched torch elsewhere."""

from glasshouse.sparse.pursuit.base import Pursued, Pursuit
from glasshouse.sparse.pursuit.omp import OMP

__all__ = ["OMP", "Pursued", "Pursuit"]
