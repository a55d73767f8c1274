"""What heads and paths do: detectors of attention heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.interp.circuits.heads import head_scores

__all__ = ["head_scores"]

__getattr__ = lazy(__name__)
