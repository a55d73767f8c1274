"""Files -> documents -> packed token shards -> batches with an exact cursor."""

from cloche.data.batches import Batches
from cloche.data.packed import PackedTokens
from cloche.data.prepare import prepare
from cloche.data.read import Document, documents
from cloche.data.report import Report
from cloche.data.split import split_of
from cloche.data.stdlib import standard_library

__all__ = ["Batches", "Document", "PackedTokens", "Report", "documents", "prepare", "split_of", "standard_library"]
