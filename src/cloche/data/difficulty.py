"""Measures of how hard a row of text is, for a curriculum."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cloche.data.packed import PackedTokens
from cloche.data.permutation import permuted
from cloche.data.rows import Layout, Rows
from cloche.errors import NotFinite
from cloche.part import Part

READ = 256  # rows measured at a time


class Material:
    """What a row is measured by: the tokens of its source. Figures of the whole source are computed when first asked for.

    >>> from pathlib import Path
    >>> from cloche.data import PackedTokens, prepare
    >>> from cloche.data.difficulty import Material
    >>> _ = Path("notes.txt").write_text("the cat sat on the mat. " * 400)
    >>> _ = prepare(["notes.txt"], "corpus", vocab=270, validation=0.1)
    >>> tokens = PackedTokens.open("corpus", "train")
    >>> int(Material(tokens).counts.sum()) == len(tokens)
    True
    """

    def __init__(self, tokens: PackedTokens) -> None:
        self.tokens = tokens

    @cached_property
    def counts(self) -> np.ndarray:
        """How often each token occurs, int64 [vocab]."""
        counts = np.zeros(1, dtype=np.int64)
        for place in range(0, len(self.tokens), 1 << 20):
            found = np.bincount(
                self.tokens.window(place, min(1 << 20, len(self.tokens) - place)), minlength=len(counts)
            )
            found[: len(counts)] += counts
            counts = found
        return counts


@dataclass(frozen=True)
class Difficulty(Part, ABC):
    """Base of measures. A subclass defines `of`.

    >>> from dataclasses import dataclass
    >>> import numpy as np
    >>> from cloche.data import Difficulty, Rows
    >>> @dataclass(frozen=True)
    ... class Variety(Difficulty):
    ...     def of(self, rows, material):
    ...         return np.array([len(set(row)) for row in rows.ids.tolist()])
    >>> Variety().of(Rows(np.array([[1, 1, 2], [1, 2, 3]]), np.zeros((2, 2)), None), None)
    array([2, 3])
    """

    @abstractmethod
    def of(self, rows: Rows, material: Material) -> np.ndarray:
        """[row]: the larger, the harder."""


@dataclass(frozen=True)
class DocumentLength(Difficulty):
    """The mean over a row's targets of the number of tokens that their documents have in it: rows of short documents are
    easy.

    >>> import numpy as np
    >>> from cloche.data import DocumentLength, Rows
    >>> DocumentLength().of(Rows(np.zeros((1, 5)), np.array([[0, 0, 0, 1]]), None), None)
    array([2.5])
    """

    def of(self, rows: Rows, material: Material) -> np.ndarray:
        weights = np.ones(rows.documents.shape) if rows.weights is None else rows.weights
        found = np.zeros(len(rows.ids))
        for i, (documents, weight) in enumerate(zip(rows.documents, weights, strict=True)):
            sizes = np.bincount(documents - documents.min(), weights=weight)
            found[i] = (sizes**2).sum() / max(sizes.sum(), 1)
        return found


@dataclass(frozen=True)
class UnigramLoss(Difficulty):
    """The mean over a row's targets of -log of their token's frequency in the source, in nats: rows of rare tokens are
    hard.

    >>> from cloche.data import UnigramLoss
    >>> UnigramLoss().to_line()
    'UnigramLoss'
    """

    def of(self, rows: Rows, material: Material) -> np.ndarray:
        losses = np.log(len(material.tokens)) - np.log(np.maximum(material.counts, 1))
        found: np.ndarray = np.average(losses[rows.ids[:, 1:]], axis=1, weights=rows.weights)
        return found


@dataclass(frozen=True)
class Compression(Difficulty):
    """Bytes that zlib makes of a row's targets over the bytes of their numbers: rows that repeat little are hard.

    >>> import numpy as np
    >>> from cloche.data import Compression, Rows
    >>> alike, varied = np.zeros((1, 65), dtype=np.int64), np.arange(65)[None]
    >>> easy, hard = (Compression().of(Rows(ids, ids[:, 1:], None), None)[0] for ids in (alike, varied))
    >>> easy < hard
    np.True_
    """

    def of(self, rows: Rows, material: Material) -> np.ndarray:
        found = []
        for i, row in enumerate(rows.ids[:, 1:]):
            data = (row if rows.weights is None else row[rows.weights[i] > 0]).astype("<u4").tobytes()
            found.append(len(zlib.compress(data, 1)) / max(len(data), 1))
        return np.array(found)


def easiest_first(layout: Layout, tokens: PackedTokens, difficulty: Difficulty) -> np.ndarray:
    """The numbers of a layout's rows, easiest first, int64; equal ones in random order. Reads all of them: 24 bytes a row.
    Raises ClocheError for a measure that is not a number."""
    measured, material = np.empty(layout.count), Material(tokens)
    for first in range(0, layout.count, READ):
        places = np.arange(first, min(first + READ, layout.count))
        measured[places] = difficulty.of(layout.read(places, shift=0), material)
    if not np.isfinite(measured).all():
        place = int(np.flatnonzero(~np.isfinite(measured))[0])
        raise NotFinite(
            f"{difficulty} measures row {place:,} as {measured[place]}; it must give a finite number for every row."
        )
    return np.lexsort((permuted(np.arange(layout.count), layout.count, 0), measured))
