"""Files -> documents -> packed token shards -> batches with an exact cursor."""

from glasshouse.data.batches import Batches
from glasshouse.data.packed import PackedTokens
from glasshouse.data.prepare import prepare
from glasshouse.data.read import Document, documents
from glasshouse.data.report import Report
from glasshouse.data.split import split_of
from glasshouse.data.stdlib import standard_library

__all__ = ["Batches", "Document", "PackedTokens", "Report", "documents", "prepare", "split_of", "standard_library"]
