"""Files -> documents -> packed token shards -> batches with an exact cursor."""

from cloche.data.batches import Batches
from cloche.data.packed import PackedTokens
from cloche.data.preparation import prepare
from cloche.data.reading import Document, Report, documents
from cloche.data.stdlib import standard_library

__all__ = ["Batches", "Document", "PackedTokens", "Report", "documents", "prepare", "standard_library"]
