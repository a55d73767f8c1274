"""Files -> documents -> packed token shards -> batches with an exact cursor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.data.batches import Batches
    from cloche.data.pack import DataIndex
    from cloche.data.packed import PackedTokens
    from cloche.data.permutation import mix
    from cloche.data.preparation import prepare
    from cloche.data.reading import Document, ReadingReport, documents
    from cloche.data.stdlib import standard_library

__all__ = [
    "Batches",
    "DataIndex",
    "Document",
    "PackedTokens",
    "ReadingReport",
    "documents",
    "mix",
    "prepare",
    "standard_library",
]

__getattr__ = lazy(__name__)
