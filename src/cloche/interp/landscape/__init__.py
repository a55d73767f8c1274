"""The loss around and between models: barriers on paths between two, and the curvature at one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.interp.landscape.barrier import loss_barrier
    from cloche.interp.landscape.hessian import hessian_spectrum
    from cloche.interp.landscape.matching import match_weights

__all__ = ["hessian_spectrum", "loss_barrier", "match_weights"]

__getattr__ = lazy(__name__)
