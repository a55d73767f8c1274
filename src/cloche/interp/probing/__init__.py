"""Sparse probing: how well a few units of a basis predict a label."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.interp.probing.labels import token_labels
    from cloche.interp.probing.sparse import sparse_probing

__all__ = ["sparse_probing", "token_labels"]

__getattr__ = lazy(__name__)
