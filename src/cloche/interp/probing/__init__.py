"""Probing: how well units predict a label, and which follow the level of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.interp.probing.labels import token_labels
    from cloche.interp.probing.levels import difficulty
    from cloche.interp.probing.linear import linear_probes
    from cloche.interp.probing.offsets import analogies
    from cloche.interp.probing.sparse import sparse_probing

__all__ = ["analogies", "difficulty", "linear_probes", "sparse_probing", "token_labels"]

__getattr__ = lazy(__name__)
