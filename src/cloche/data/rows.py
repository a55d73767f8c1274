"""Packing: how the documents of a corpus become rows of one length. Here by concatenating and cutting them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cloche.data.packed import PackedTokens
from cloche.errors import CorpusEmpty
from cloche.part import Part


class Rows(NamedTuple):
    """Rows of a batch. ids: int64 [row, length + 1], the first `length` are inputs, the last `length` their targets.

    documents: int64 [row, length], the number of the document within its row that each input belongs to: an end token as
    an input begins the next document, as a target it ends the one before. weights: float32 [row, length] of the targets,
    0 for padding; None if all are 1.

    >>> import numpy as np
    >>> from cloche.data import Rows
    >>> Rows(np.array([[5, 6, 0, 7]]), np.array([[0, 0, 1]]), None).ids.shape
    (1, 4)
    """

    ids: np.ndarray
    documents: np.ndarray
    weights: np.ndarray | None


class Layout(ABC):
    """The rows that a packing makes of one source: `count` of them an epoch. A subclass defines `read`.

    >>> from pathlib import Path
    >>> from cloche.data import PackedTokens, Stream, prepare
    >>> _ = Path("notes.txt").write_text("the cat sat on the mat. " * 400)
    >>> _ = prepare(["notes.txt"], "corpus", vocab=270, validation=0.1)
    >>> layout = Stream().layout(PackedTokens.open("corpus", "train"), length=8)
    >>> len(layout.read([0, 1], shift=0).ids), layout.used
    (2, 1.0)
    """

    count: int
    used: float = 1.0  # share of the slots that hold tokens

    @abstractmethod
    def read(self, places: np.ndarray | list[int], shift: int) -> Rows:
        """The rows of these numbers, each from 0 to count - 1.

        `shift` is a random number of the epoch, 0 where the same rows are wanted in each: a layout may cut elsewhere by it.
        """


@dataclass(frozen=True)
class Packing(Part, ABC):
    """Base of packings: how documents become rows of `length` + 1 slots, the first of which is an input alone. A subclass
    defines `layout`.

    >>> from dataclasses import dataclass
    >>> from cloche.data import Packing, Stream
    >>> @dataclass(frozen=True)
    ... class FirstHalf(Packing):
    ...     def layout(self, tokens, length):
    ...         return Stream().layout(tokens.part(0, len(tokens) // 2), length)
    >>> isinstance(FirstHalf(), Packing)
    True
    """

    @abstractmethod
    def layout(self, tokens: PackedTokens, length: int) -> Layout:
        """The rows of one source. Raises ClocheError if there are none."""

    def least(self, rows: int, length: int) -> int:
        """The fewest tokens that fill that many rows; 0 where any number does."""
        return 0


@dataclass(frozen=True)
class Stream(Packing):
    """Documents follow each other as one ring of tokens, which is cut into rows from another place in each epoch.

    Every slot is used, each token is a target at most once an epoch, and fewer than `length` are left over, different
    ones in each epoch; most documents are cut.

    >>> from cloche.data import Stream
    >>> Stream().to_line()
    'Stream'
    """

    def layout(self, tokens: PackedTokens, length: int) -> Layout:
        if len(tokens) < length:
            raise CorpusEmpty(
                f"{tokens.name or 'The corpus'} has {len(tokens):,} tokens, fewer than one window of {length:,}; give it more "
                'text, set a smaller run.length, or pad it with rows.packing = "BestFit".'
            )
        return _Ring(tokens, length)

    def least(self, rows: int, length: int) -> int:
        return rows * length + 1


class _Ring(Layout):
    def __init__(self, tokens: PackedTokens, length: int) -> None:
        self._tokens, self._length = tokens, length
        self.count = len(tokens) // length

    def read(self, places: np.ndarray | list[int], shift: int) -> Rows:
        starts = (shift % len(self._tokens) + np.asarray(places) * self._length) % len(self._tokens)
        ids = np.stack([self._window(start) for start in starts.tolist()])
        return Rows(ids, document_numbers(ids[:, :-1], self._tokens.end), None)

    def _window(self, start: int) -> np.ndarray:
        wanted, there = self._length + 1, len(self._tokens) - start
        if wanted <= there:
            return self._tokens.window(start, wanted)
        return np.concatenate([self._tokens.window(start, there), self._tokens.window(0, wanted - there)])


def document_numbers(inputs: np.ndarray, end: int) -> np.ndarray:
    """The number of each input's document within its row, int64 [row, position]: an end token begins the next.

    >>> import numpy as np
    >>> from cloche.data import document_numbers
    >>> document_numbers(np.array([[0, 5, 6, 0, 7]]), end=0)
    array([[0, 0, 0, 1, 1]])
    """
    begins = inputs == end
    begins[:, :1] = False
    return np.cumsum(begins, axis=1)
