"""What a model is made of: its parts and sites, their sizes and costs, with other findings laid over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.interp.structure.curvature import extreme_eigenvalues, sharpness
    from cloche.interp.structure.graph import model_graph
    from cloche.interp.structure.stages import depth_stages

__all__ = ["depth_stages", "extreme_eigenvalues", "model_graph", "sharpness"]

__getattr__ = lazy(__name__)
