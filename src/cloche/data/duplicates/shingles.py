"""Shingles: hashes of every run of a few words of a text, for many texts at a time and without a loop over words."""

from __future__ import annotations

import numpy as np

from cloche.data.permutation import scrambled

SPACES = np.zeros(256, dtype=bool)
SPACES[np.frombuffer(b" \t\n\r\v\f", dtype=np.uint8)] = True
BASE = np.uint64(0x9E3779B97F4A7C15 | 1)


def _powers(base: np.uint64, count: int) -> np.ndarray:
    """base ** 0 .. count - 1, modulo 2 ** 64."""
    out = np.empty(count, dtype=np.uint64)
    out[0] = 1
    done = 1
    with np.errstate(over="ignore"):
        while done < count:
            more = min(done, count - done)
            out[done : done + more] = out[:more] * (out[done - 1] * base)
            done += more
    return out


class WordHashes:
    """The hashes of words: of the runs of bytes between ASCII spaces."""

    def __init__(self) -> None:
        self._up, self._down = np.ones(1, dtype=np.uint64), np.ones(1, dtype=np.uint64)

    def of(self, text: bytes) -> tuple[np.ndarray, np.ndarray]:
        """The hash of each word, uint64, and where it begins."""
        data = np.frombuffer(text, dtype=np.uint8)
        if len(data) >= len(self._up):
            inverse = np.uint64(pow(int(BASE), -1, 1 << 64))
            self._up, self._down = _powers(BASE, 2 * len(data) + 1), _powers(inverse, 2 * len(data) + 1)
        edges = np.flatnonzero(np.diff(SPACES[data], prepend=True, append=True))
        starts, ends = edges[::2], edges[1::2]
        with np.errstate(over="ignore"):
            # A word is a polynomial in the base: its bytes' terms summed from the start of the text, shifted to its own start.
            sums = np.zeros(len(data) + 1, dtype=np.uint64)
            np.cumsum((data.astype(np.uint64) + np.uint64(1)) * self._up[: len(data)], out=sums[1:])
            return scrambled((sums[ends] - sums[starts]) * self._down[starts]), starts


def shingles(words: np.ndarray, first: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The hash of every `size` successive words of each document, and the number of the document it is of.

    words: of all documents. first: [document + 1], where the words of each begin. A document of fewer words is one
    shingle; one without words has none.
    """
    lengths = np.diff(first)
    counts = np.where(lengths >= size, lengths - size + 1, np.minimum(lengths, 1))
    documents = np.repeat(np.arange(len(lengths)), counts)
    within = np.arange(len(documents)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts, sizes = first[:-1][documents] + within, np.minimum(lengths, size)[documents]
    found = np.zeros(len(documents), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for i in range(size):
            here = sizes > i
            found[here] = scrambled(found[here] + words[starts[here] + i])
    return found, documents
