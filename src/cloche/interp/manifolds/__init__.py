"""Manifolds: the curve that a variable's values make at a site, its shape and dimension, and edits along it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.interp.manifolds.describing import manifold
    from cloche.interp.manifolds.moving import manifold_intervention
    from cloche.interp.manifolds.stability import subspace_stability
    from cloche.interp.manifolds.variables import Contexts, Positions, TaskVariable, Variable, WordList

__all__ = [
    "Contexts",
    "Positions",
    "TaskVariable",
    "Variable",
    "WordList",
    "manifold",
    "manifold_intervention",
    "subspace_stability",
]

__getattr__ = lazy(__name__)
