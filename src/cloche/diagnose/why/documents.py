"""Where the rows of a batch are from: their place in the packed tokens, their document and its source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cloche.data import PackedTokens

SCANNED = 1 << 20  # tokens looked through at a time
KEY = 24  # tokens by which a row is found


@dataclass(frozen=True)
class Place:
    """A row's place: its first token among the packed ones, the number of the document that it begins in, and the name of
    the source, where the packed text knows it."""

    token: int
    document: int
    source: str


def place_of(tokens: PackedTokens, row: np.ndarray) -> Place | None:
    """Finds a row [position] among the packed tokens; None if it is not there as one piece."""
    key, size = row[:KEY], min(KEY, len(row))
    for begin in range(0, len(tokens), SCANNED):
        part = tokens.window(begin, min(SCANNED + size, len(tokens) - begin))
        found = np.flatnonzero(part[: len(part) - size + 1] == key[0])
        for k in range(1, size):
            found = found[part[found + k] == key[k]]
        for at in found.tolist():
            whole = min(len(row), len(tokens) - begin - at)
            if (tokens.window(begin + at, whole) == row[:whole]).all():
                token = begin + at
                return Place(token, int(np.searchsorted(tokens.ends(), token)), source_of(tokens, token))
    return None


def source_of(tokens: PackedTokens, token: int) -> str:
    """The name of the source of a mixture that holds a token; "" without one."""
    first = 0
    for part in tokens.parts:
        first += len(part)
        if token < first:
            return part.name
    return ""
