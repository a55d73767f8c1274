"""What heads and paths do: attention patterns, and detectors of attention heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.interp.circuits.heads import head_scores
    from cloche.interp.circuits.patterns import attention_patterns

__all__ = ["attention_patterns", "head_scores"]

__getattr__ = lazy(__name__)
