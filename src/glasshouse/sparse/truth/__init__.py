"""Signals whose dictionary is known, and what only they can show: is the truth found, which features absorb others, where the
error comes from, and how much a seed decides."""

from glasshouse.sparse.truth.absorption import Absorption, absorption
from glasshouse.sparse.truth.gap import Gap, gap_report
from glasshouse.sparse.truth.grade import Grade, grade
from glasshouse.sparse.truth.plant import Hierarchy
from glasshouse.sparse.truth.planted import Planted, isotropic_noise
from glasshouse.sparse.truth.seeds import Interval, over_seeds, stability

__all__ = [
    "Absorption",
    "Gap",
    "Grade",
    "Hierarchy",
    "Interval",
    "Planted",
    "absorption",
    "gap_report",
    "grade",
    "isotropic_noise",
    "over_seeds",
    "stability",
]
