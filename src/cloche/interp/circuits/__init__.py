"""What heads and paths do: attention patterns, detectors of attention heads, spectra of their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.interp.circuits.heads import head_scores
    from cloche.interp.circuits.inhibiting import inhibition
    from cloche.interp.circuits.patterns import attention_patterns
    from cloche.interp.circuits.spectra import head_spectra

__all__ = ["attention_patterns", "head_scores", "head_spectra", "inhibition"]

__getattr__ = lazy(__name__)
