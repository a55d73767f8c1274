"""Files -> documents -> packed token shards -> batches with an exact cursor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.data.batches import Batches, Draw
    from cloche.data.best_fit import BestFit, BestFitLayout
    from cloche.data.curriculum import Curriculum, Easiest
    from cloche.data.difficulty import Compression, Difficulty, DocumentLength, UnigramLoss
    from cloche.data.duplicates import Duplicates, ExactDuplicates, NearDuplicates
    from cloche.data.mixture import Mixture, Source, Turns
    from cloche.data.pack import DataIndex
    from cloche.data.packed import PackedTokens
    from cloche.data.permutation import mix
    from cloche.data.preparation import prepare, prepare_mixture
    from cloche.data.reading import Document, ReadingReport, documents
    from cloche.data.rows import Layout, Packing, Rows, Stream, document_numbers
    from cloche.data.stdlib import standard_library

__all__ = [
    "Batches",
    "BestFit",
    "BestFitLayout",
    "Compression",
    "Curriculum",
    "DataIndex",
    "Difficulty",
    "Document",
    "DocumentLength",
    "Draw",
    "Duplicates",
    "Easiest",
    "ExactDuplicates",
    "Layout",
    "Mixture",
    "NearDuplicates",
    "PackedTokens",
    "Packing",
    "ReadingReport",
    "Rows",
    "Source",
    "Stream",
    "Turns",
    "UnigramLoss",
    "document_numbers",
    "documents",
    "mix",
    "prepare",
    "prepare_mixture",
    "standard_library",
]

__getattr__ = lazy(__name__)
