"""How alike two models, checkpoints or layers are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.interp.similarity.diff import model_diff
    from cloche.interp.similarity.representations import representation_similarity

__all__ = ["model_diff", "representation_similarity"]

__getattr__ = lazy(__name__)
