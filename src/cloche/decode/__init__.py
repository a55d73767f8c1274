"""The generation engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.decode.generation import Generation, check_stop, generate, stream
    from cloche.decode.layout import lay_by_columns
    from cloche.decode.prompts import encoded, is_texts, read_prompt, read_windows
    from cloche.decode.sampling import Sampling
    from cloche.decode.session import Session

__all__ = [
    "Generation",
    "Sampling",
    "Session",
    "check_stop",
    "encoded",
    "generate",
    "is_texts",
    "lay_by_columns",
    "read_prompt",
    "read_windows",
    "stream",
]

__getattr__ = lazy(__name__)
