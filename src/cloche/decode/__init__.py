"""The generation engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.decode.generation import Generation, generate, stream
    from cloche.decode.layout import lay_by_columns
    from cloche.decode.sampling import Sampling
    from cloche.decode.session import Session

__all__ = ["Generation", "Sampling", "Session", "generate", "lay_by_columns", "stream"]

__getattr__ = lazy(__name__)
