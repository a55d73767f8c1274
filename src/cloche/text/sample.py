"""An evenly spread, deterministic sample of a stream whose length is not known beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

BLOCK = 8192  # characters; small against the sample, so that it touches many documents, large against a word


def even_sample(texts: Iterable[str], limit: int) -> list[str]:
    """Every k-th block of the stream, k the least power of two that leaves at most `limit` characters.

    Blocks are at most 8,192 characters, cut at line ends. A stream shorter than `limit` is kept whole.
    Memory: at most `limit` characters and one block.
    """
    kept: list[tuple[int, str]] = []
    size, stride = 0, 1
    for index, block in enumerate(block for text in texts for block in _blocks(text)):
        if index % stride:
            continue
        kept.append((index, block))
        size += len(block)
        while size > limit and len(kept) > 1:
            stride *= 2
            kept = [(i, b) for i, b in kept if i % stride == 0]
            size = sum(len(b) for _, b in kept)
    return [block for _, block in kept]


def _blocks(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        stop = start + BLOCK
        if stop < len(text):
            line_end = text.rfind("\n", start, stop)
            stop = line_end + 1 if line_end >= start else stop
        yield text[start:stop]
        start = stop
