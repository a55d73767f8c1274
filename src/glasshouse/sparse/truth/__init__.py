"""Planted truth with structure, and what only it can show: features absorbed by others, and how much a seed decides."""

from glasshouse.sparse.truth.absorption import Absorption, absorption
from glasshouse.sparse.truth.plant import Hierarchy
from glasshouse.sparse.truth.seeds import Interval, over_seeds, stability

__all__ = ["Absorption", "Hierarchy", "Interval", "absorption", "over_seeds", "stability"]
