"""Near duplicates: MinHash signatures, locality-sensitive hashing, and the true Jaccard similarity of the candidates."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np

from cloche.data.duplicates.exact import Contents, normalised
from cloche.data.duplicates.removal import Duplicates, Read, Removed
from cloche.data.duplicates.shingles import WordHashes, shingles
from cloche.data.permutation import scrambled
from cloche.part import within

BINS = 128  # of a signature
RECALL = 0.99  # of pairs at the threshold, from which the bands are chosen
BYTES, TEXTS = 1 << 18, 4096  # of a batch: what stays in the processor's cache
EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True)
class NearDuplicates(Duplicates):
    """Leaves out training documents whose Jaccard similarity with one that is kept, or is held out for validation, is at
    least `threshold`: of the sets of their runs of `words` words ("Deduplicating training data makes language models better",
    2107.06499). Of those that are alike the first is kept; the validation side stays as it is.

    Candidates come from one-permutation MinHash signatures with optimal densification (1406.4784, 1703.04664), in bands that
    bring together 99% of the pairs at the threshold; each pair is then compared by its whole sets, so that none below the
    threshold is left out. Words are what ASCII spaces and line ends separate; a document of fewer is one run.

    Takes two more passes over the corpus; about 230 bytes of memory a document; and on disk, in the folder for temporary
    files, 8 bytes a word of the candidates.

    >>> from cloche.data import Document, NearDuplicates
    >>> text = " ".join(f"word{i}" for i in range(100))
    >>> texts = [text, text.replace("word50", "changed"), " ".join(reversed(text.split()))]
    >>> removed = NearDuplicates(threshold=0.8).find(lambda: [("train", Document(t, t)) for t in texts])
    >>> removed.drop.tolist(), removed.figures["near"]
    ([False, True, False], 1)
    """

    threshold: float = 0.8
    words: int = 5

    def __post_init__(self) -> None:
        within(self, threshold=(0.3, 1), words=(1, 100))

    @property
    def bands(self) -> tuple[int, int]:
        """How many bands of how many bins: the widest that bring a pair at the threshold together with probability 0.99."""
        for rows in range(BINS, 0, -1):
            if 1 - (1 - self.threshold**rows) ** (BINS // rows) >= RECALL:
                return BINS // rows, rows
        return BINS, 1

    def find(self, read: Read) -> Removed:
        contents = Contents()
        keys = self._keys(_noted(normalised(read()), contents))
        drop = contents.repeated()
        exact = int(drop.sum())
        documents, groups = _together(keys, ~drop & (contents.sizes > 0), contents.training)
        del keys
        with tempfile.TemporaryFile() as file:
            sets = _Sets(file, np.unique(documents), self._sets(normalised(read()), set(documents.tolist())))
            compared = _leave_out(drop, contents.training, documents, groups, sets, self.threshold)
        figures = contents.figures(drop)
        return Removed(drop, figures | {"exact": exact, "near": figures["documents"] - exact, "compared": compared})

    def _keys(self, pieces: Iterable[tuple[bytes, bool]]) -> np.ndarray:
        """The keys of each document's bands, uint64 [document, band]."""
        bands, rows = self.bands
        found = [np.empty((0, bands), dtype=np.uint64)]
        held: np.ndarray | None = None  # of a document that goes on in the next batch
        for texts, lasts in _batches(self._overlapping(pieces)):
            minima = _minima(*self._shingles(texts), len(texts))
            if held is not None:
                minima[0] = np.minimum(minima[0], held)
            for i in np.flatnonzero(~lasts[:-1]).tolist():  # the pieces of a document follow each other
                minima[i + 1] = np.minimum(minima[i + 1], minima[i])
            held = None if lasts[-1] else minima[-1]
            found.append(_band_keys(_dense(minima[lasts]), bands, rows))
        return np.concatenate(found)

    def _sets(self, pieces: Iterable[tuple[str, bytes, bool]], chosen: set[int]) -> Iterator[np.ndarray]:
        """The shingles of the documents of these numbers, in order; sorted, without repeats."""
        gathered: list[np.ndarray] = []
        for texts, lasts in _batches(self._overlapping(_of(pieces, chosen))):
            found, texts_of = self._shingles(texts)
            first = np.searchsorted(texts_of, np.arange(len(texts) + 1))
            for i, last in enumerate(lasts.tolist()):
                gathered.append(found[first[i] : first[i + 1]])
                if last:
                    yield np.unique(np.concatenate(gathered))
                    gathered = []

    def _overlapping(self, pieces: Iterable[tuple[bytes, bool]]) -> Iterator[tuple[bytes, bool]]:
        """Pieces that begin with the last words of the one before, so that every run of words is in one of them."""
        before = b""
        for words, last in pieces:
            data = before + b" " + words if before else words
            ending = data.rsplit(b" ", self.words)
            if last or len(ending) > self.words:
                yield data, last
                before = b"" if last else b" ".join(ending[1:])
            else:
                before = data

    def _shingles(self, texts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """The hash of every run of words, and the number of the text it is in."""
        words, starts = HASHES.of(b" ".join(texts))
        ends = np.cumsum([len(text) + 1 for text in texts])
        return shingles(words, np.append(0, np.searchsorted(starts, ends)), self.words)


HASHES = WordHashes()


def _noted(pieces: Iterable[tuple[str, bytes, bool]], contents: Contents) -> Iterator[tuple[bytes, bool]]:
    for side, words, last in pieces:
        contents.add(side, words, last)
        yield words, last


def _of(pieces: Iterable[tuple[str, bytes, bool]], chosen: set[int]) -> Iterator[tuple[bytes, bool]]:
    number = 0
    for _, words, last in pieces:
        if number in chosen:
            yield words, last
        number += last


def _batches(pieces: Iterable[tuple[bytes, bool]]) -> Iterator[tuple[list[bytes], np.ndarray]]:
    """Pieces hashed together: texts, and whether each is the last of its document."""
    texts: list[bytes] = []
    lasts: list[bool] = []
    size = 0
    for text, last in pieces:
        texts.append(text)
        lasts.append(last)
        size += len(text)
        if size >= BYTES or len(texts) == TEXTS:
            yield texts, np.array(lasts)
            texts, lasts, size = [], [], 0
    if texts:
        yield texts, np.array(lasts)


# ---- signatures and bands


def _minima(found: np.ndarray, texts: np.ndarray, count: int) -> np.ndarray:
    """The least shingle of each text in each bin, uint64 [text, bin]: the first bits of a shingle say in which it is."""
    minima = np.full(count * BINS, EMPTY)
    np.minimum.at(minima, texts * BINS + (found >> np.uint64(57)).astype(np.int64), found)
    return minima.reshape(count, BINS)


def _dense(minima: np.ndarray) -> np.ndarray:
    """Each empty bin takes over a full one, drawn by its own sequence of hashes, which is the same for every document."""
    out, turn = minima.copy(), 0
    texts, bins = np.nonzero((minima == EMPTY) & (minima != EMPTY).any(axis=1, keepdims=True))
    while len(texts):
        turn += 1
        other = (scrambled(bins.astype(np.uint64) * np.uint64(1 << 32) + np.uint64(turn)) >> np.uint64(57)).astype(int)
        taken = minima[texts, other]
        out[texts, bins] = taken
        left = taken == EMPTY
        texts, bins = texts[left], bins[left]
    return out


def _band_keys(signatures: np.ndarray, bands: int, rows: int) -> np.ndarray:
    keys = np.empty((len(signatures), bands), dtype=np.uint64)
    for band in range(bands):
        key = np.zeros(len(signatures), dtype=np.uint64)
        for row in range(band * rows, (band + 1) * rows):
            key = scrambled(key + signatures[:, row])
        keys[:, band] = key
    return keys


def _together(keys: np.ndarray, usable: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The documents that share a band's key with another, one of them for training, and the groups they are in; by document."""
    numbers = np.flatnonzero(usable)
    documents, groups = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for band in range(keys.shape[1]):
        key = keys[numbers, band]
        order = np.argsort(key, kind="stable")
        key, here = key[order], numbers[order]
        group = np.cumsum(np.append(0, key[1:] != key[:-1])[: len(key)])
        shared = (np.bincount(group) > 1) & (np.bincount(group, training[here]) > 0) if len(key) else group > 0
        member = shared[group]
        documents.append(here[member])
        groups.append(group[member] * keys.shape[1] + band)
    found, of = np.concatenate(documents), np.concatenate(groups)
    order = np.argsort(found, kind="stable")
    return found[order], of[order]


# ---- comparing


class _Sets:
    """The shingles of the candidates, in a file that is memory-mapped."""

    def __init__(self, file: IO[bytes], numbers: np.ndarray, sets: Iterator[np.ndarray]) -> None:
        self._place = {number: i for i, number in enumerate(numbers.tolist())}
        self._first = [0]
        for each in sets:
            file.write(each.tobytes())
            self._first.append(self._first[-1] + len(each))
        file.flush()
        self._data = np.memmap(file, dtype=np.uint64, mode="r") if self._first[-1] else np.empty(0, dtype=np.uint64)

    def alike(self, one: int, other: int, threshold: float) -> bool:
        """Whether the Jaccard similarity of two documents is at least the threshold."""
        a, b = self._of(one), self._of(other)
        if min(len(a), len(b)) < threshold * max(len(a), len(b)):
            return False
        both = len(np.intersect1d(a, b, assume_unique=True))
        return both >= threshold * (len(a) + len(b) - both)

    def _of(self, number: int) -> np.ndarray:
        place = self._place[number]
        return self._data[self._first[place] : self._first[place + 1]]


def _leave_out(
    drop: np.ndarray, training: np.ndarray, documents: np.ndarray, groups: np.ndarray, sets: _Sets, threshold: float
) -> int:
    """Marks in `drop` the training documents that are like one that is kept; returns how many pairs were compared."""
    compared = 0
    kept: dict[int, list[int]] = {}  # by group
    numbers, first = np.unique(documents, return_index=True)
    members = dict(zip(numbers.tolist(), np.split(groups, first[1:]), strict=True)) if len(numbers) else {}
    for number in sorted(members, key=lambda number: (bool(training[number]), number)):
        here = members[number].tolist()
        if training[number]:
            for other in sorted({other for group in here for other in kept.get(group, ())}):
                compared += 1
                if sets.alike(number, other, threshold):
                    drop[number] = True
                    break
        if not drop[number]:
            for group in here:
                kept.setdefault(group, []).append(number)
    return compared
