"""Best-fit packing: rows made of whole documents, padded where nothing fits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cloche.data.packed import PackedTokens
from cloche.data.rows import Layout, Packing, Rows
from cloche.errors import CorpusEmpty
from cloche.part import within


class Piece(NamedTuple):
    """Part of a document: its first token's place in the source, its number of tokens, and whether the document begins with
    it and ends with it."""

    start: int
    size: int
    opens: bool
    closes: bool


@dataclass(frozen=True)
class BestFit(Packing):
    """Rows of whole documents: the longest first, each into the fullest row that has room (best-fit decreasing; "Fewer
    truncations improve language modeling", 2404.10830). A document longer than a row is cut into rows and a rest. No token is
    dropped; padding is never a target.

    fill: share of the slots that must hold tokens. Where whole documents leave more slots empty, the emptiest rows are
    taken apart and their documents cut to fill the gaps of others; 0 never cuts one that fits into a row. buffer: how many
    documents are packed together; more fill rows better, fewer take less memory while they are packed.

    Layouts are kept in memory: 14 bytes a piece, and 8 a row; of a corpus of long documents, 22 bytes for `length` tokens.

    >>> from pathlib import Path
    >>> from cloche.data import BestFit, PackedTokens, prepare
    >>> for i in range(40):
    ...     Path(f"{i}.txt").write_text("the cat sat on the mat. " * (i + 1)) and None
    >>> _ = prepare(["."], "corpus", vocab=270, validation=0.1)
    >>> layout = BestFit(fill=0.99).layout(PackedTokens.open("corpus", "train"), length=64)
    >>> layout.used > 0.99, layout.read([0], shift=0).ids.shape
    (True, (1, 65))
    """

    fill: float = 0.995
    buffer: int = 65_536

    def __post_init__(self) -> None:
        within(self, fill=(0, 1), buffer=(1, 2**31))

    def layout(self, tokens: PackedTokens, length: int) -> BestFitLayout:
        if not len(tokens):
            raise CorpusEmpty(f"{tokens.name or 'The corpus'} has no tokens; give it text.")
        ends = tokens.ends() + 1
        if not len(ends) or ends[-1] != len(tokens):
            ends = np.append(ends, len(tokens))
        starts = np.append(0, ends[:-1])
        blocks = [
            _pack(starts[i : i + self.buffer], ends[i : i + self.buffer], length, self.fill)
            for i in range(0, len(ends), self.buffer)
        ]
        return BestFitLayout(tokens, length, blocks, len(ends))


class BestFitLayout(Layout):
    """The rows of a best-fit packing. used: share of the slots that hold tokens. whole: share of the documents that are in
    one piece.

    >>> from pathlib import Path
    >>> from cloche.data import BestFit, PackedTokens, prepare
    >>> _ = Path("notes.txt").write_text("the cat sat on the mat. " * 400)
    >>> _ = prepare(["notes.txt"], "corpus", vocab=270, validation=0.1)
    >>> BestFit().layout(PackedTokens.open("corpus", "train"), length=64).whole
    0.0
    """

    def __init__(
        self, tokens: PackedTokens, length: int, blocks: list[tuple[np.ndarray, np.ndarray]], documents: int
    ) -> None:
        self._tokens, self._length = tokens, length
        self._pieces = np.concatenate([pieces for pieces, _ in blocks])
        sizes = np.concatenate([sizes for _, sizes in blocks])
        self._first = np.concatenate([[0], np.cumsum(sizes)])  # [row + 1]: where the pieces of each row begin
        self.count = len(sizes)
        self.used = len(tokens) / (self.count * length)
        self.whole = 1 - len(np.unique(np.searchsorted(tokens.ends(), self._cut()))) / documents

    def _cut(self) -> np.ndarray:
        """Where pieces begin that continue a document."""
        return self._pieces["start"][~self._pieces["opens"]]

    def read(self, places: np.ndarray | list[int], shift: int) -> Rows:
        rows = np.asarray(places)
        ids = np.full((len(rows), self._length + 1), self._tokens.end, dtype=np.int64)
        documents = np.zeros((len(rows), self._length), dtype=np.int64)
        weights = np.zeros((len(rows), self._length), dtype=np.float32)
        for i, row in enumerate(rows.tolist()):
            place = 0
            pieces = self._pieces[self._first[row] : self._first[row + 1]]
            for number, (start, size, opens, _) in enumerate(pieces.tolist()):
                ids[i, place + 1 : place + 1 + size] = self._tokens.window(start, size)
                documents[i, place : place + size] = number
                weights[i, place : place + size] = 1
                if place and not (opens and ids[i, place] == self._tokens.end):
                    # What stands before it here does not in the document, so it neither predicts it nor belongs to it.
                    weights[i, place], documents[i, place] = 0, number - 1
                elif not opens:
                    ids[i, 0] = self._tokens.window(start - 1, 1)[0]
                place += size
            documents[i, place:] = len(pieces)
        return Rows(ids, documents, weights)


PIECE = np.dtype([("start", np.int64), ("size", np.int32), ("opens", np.bool_), ("closes", np.bool_)])


def _pack(starts: np.ndarray, ends: np.ndarray, length: int, fill: float) -> tuple[np.ndarray, np.ndarray]:
    """The pieces of one buffer of documents, row by row, and the number of pieces of each row."""
    sizes = ends - starts
    whole = _full_rows(starts, sizes // length, length, sizes % length == 0)
    rests = [
        Piece(end - rest, rest, rest == size, True)
        for end, size, rest in zip(ends.tolist(), sizes.tolist(), (sizes % length).tolist(), strict=True)
        if rest
    ]
    bins = _best_fit(rests, length)
    total = int(sizes.sum())
    most = max(math.ceil(total / length), int(total / (fill * length)) if fill else len(whole) + len(bins))
    # The rest of a cut document goes first, where the token before it is its own; the beginning of one last, since the next
    # document is to follow an end token.
    rows = [
        sorted(row, key=lambda piece: (piece.opens, not piece.closes, piece.start))
        for row in _filled(bins, most - len(whole), length)
    ]
    pieces = np.array([piece for row in rows for piece in row], dtype=PIECE)
    counts = np.append(np.ones(len(whole), dtype=np.int64), [len(row) for row in rows]).astype(np.int64)
    return np.concatenate([whole, pieces]), counts


def _full_rows(starts: np.ndarray, counts: np.ndarray, length: int, ends_with_one: np.ndarray) -> np.ndarray:
    """The pieces of documents that fill whole rows, of which a document may have millions."""
    pieces = np.zeros(int(counts.sum()), dtype=PIECE)
    documents = np.repeat(np.arange(len(starts)), counts)
    number = np.arange(len(pieces)) - np.repeat(np.cumsum(counts) - counts, counts)
    pieces["start"] = starts[documents] + number * length
    pieces["size"] = length
    pieces["opens"] = number == 0
    pieces["closes"] = (number == counts[documents] - 1) & ends_with_one[documents]
    return pieces


def _best_fit(pieces: list[Piece], length: int) -> list[list[Piece]]:
    """Longest first, each into the fullest bin that has room."""
    bins: list[list[Piece]] = []
    with_room: list[list[int]] = [[] for _ in range(length + 1)]  # bins by the number of free slots
    rooms = 0  # bit i: there is a bin with i free slots
    for piece in sorted(pieces, key=lambda piece: (-piece.size, piece.start)):
        fitting = rooms >> piece.size
        if fitting:
            room = piece.size + (fitting & -fitting).bit_length() - 1
            number = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
            bins[number].append(piece)
        else:
            room, number = length, len(bins)
            bins.append([piece])
        if left := room - piece.size:
            with_room[left].append(number)
            rooms |= 1 << left
    return bins


def _filled(bins: list[list[Piece]], most: int, length: int) -> list[list[Piece]]:
    """At most `most` bins: the emptiest are taken apart and cut to fill the largest gaps of the others."""
    if len(bins) <= most:
        return bins
    held = [sum(piece.size for piece in each) for each in bins]
    order = sorted(range(len(bins)), key=lambda i: (-held[i], i))
    kept, loose = order[:most], [piece for i in order[most:] for piece in bins[i]]
    gaps = sorted(kept, key=lambda i: (held[i], i))
    loose.sort(key=lambda piece: (piece.size, -piece.start))
    for i in gaps:
        gap = length - held[i]
        while gap and loose:
            piece = loose.pop()
            taken = min(gap, piece.size)
            whole = taken == piece.size
            bins[i].append(Piece(piece.start, taken, piece.opens, whole and piece.closes))
            gap -= taken
            if not whole:
                loose.append(Piece(piece.start + taken, piece.size - taken, False, piece.closes))
    return [bins[i] for i in kept]
