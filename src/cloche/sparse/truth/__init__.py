"""Signals whose dictionary is known, and what only they can show: is the truth found, which features absorb others, where the
error comes from, and how much a seed decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.sparse.truth.absorbing import Absorption, absorption
    from cloche.sparse.truth.assignment import match
    from cloche.sparse.truth.gap import Gap, gap_report
    from cloche.sparse.truth.gap_tables import GapTable, gap_table
    from cloche.sparse.truth.grading import Grade, grade
    from cloche.sparse.truth.plant import Families, Hierarchy, Usage
    from cloche.sparse.truth.planted import Plant, Planted, isotropic_noise
    from cloche.sparse.truth.planted_reports import PlantedReport, planted_report
    from cloche.sparse.truth.seeds import Interval, over_seeds, stability

__all__ = [
    "Absorption",
    "Families",
    "Gap",
    "GapTable",
    "Grade",
    "Hierarchy",
    "Interval",
    "Plant",
    "Planted",
    "PlantedReport",
    "Usage",
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

__getattr__ = lazy(__name__)
