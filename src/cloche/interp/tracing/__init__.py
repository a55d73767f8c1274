"""An instrument over all checkpoints of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.interp.tracing.following import trace
    from cloche.interp.tracing.onsets import Onset, find_onset

__all__ = ["Onset", "find_onset", "trace"]

__getattr__ = lazy(__name__)
