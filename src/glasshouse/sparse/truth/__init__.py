"""Signals whose dictionary is known, and what only they can show: is the truth found, which features absorb others, where the
error comes from, and how much a seed decides."""

from glasshouse.sparse.truth.absorption import Absorption, absorption
from glasshouse.sparse.truth.gap import Gap, gap_report
from glasshouse.sparse.truth.gap_table import GapTable, gap_table
from glasshouse.sparse.truth.grade import Grade, grade
from glasshouse.sparse.truth.match import match
from glasshouse.sparse.truth.plant import Hierarchy
from glasshouse.sparse.truth.planted import Plant, Planted, isotropic_noise
from glasshouse.sparse.truth.planted_report import PlantedReport, planted_report
from glasshouse.sparse.truth.seeds import Interval, over_seeds, stability

__all__ = [
    "Absorption",
    "Gap",
    "GapTable",
    "Grade",
    "Hierarchy",
    "Interval",
    "Plant",
    "Planted",
    "PlantedReport",
    "absorption",
    "gap_report",
    "gap_table",
    "grade",
    "isotropic_noise",
    "match",
    "over_seeds",
    "planted_report",
    "stability",
]
