"""Synthetic benchmarks with a known dictionary: recovery, absorption, the source of the error, and variation over seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.drawing import Interval, student_quantile
    from cloche.sparse.truth.absorbing import Absorption, absorption
    from cloche.sparse.truth.assignment import assign, match
    from cloche.sparse.truth.gap import Gap, gap_report
    from cloche.sparse.truth.gap_tables import GapTable, gap_table
    from cloche.sparse.truth.grading import Grade, grade
    from cloche.sparse.truth.hierarchy import Families, Hierarchy, Usage
    from cloche.sparse.truth.seeds import over_seeds, stability
    from cloche.sparse.truth.synthetic import SyntheticData, SyntheticFeatures, isotropic_noise
    from cloche.sparse.truth.synthetic_reports import SyntheticReport, synthetic_report

__all__ = [
    "Absorption",
    "Families",
    "Gap",
    "GapTable",
    "Grade",
    "Hierarchy",
    "Interval",
    "SyntheticData",
    "SyntheticFeatures",
    "SyntheticReport",
    "Usage",
    "absorption",
    "assign",
    "gap_report",
    "gap_table",
    "grade",
    "isotropic_noise",
    "match",
    "over_seeds",
    "stability",
    "student_quantile",
    "synthetic_report",
]

__getattr__ = lazy(__name__)
