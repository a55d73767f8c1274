"""Text in pieces of bounded size: cut at line ends where there are any, never inside a character."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

PIECE = 1 << 20  # bytes; a few such pieces are encoded at once


def cut(stream: BinaryIO) -> Iterator[bytes]:
    """The stream in non-empty pieces of at most 1 MiB, each ending with a line, else a word, else a character."""
    block = stream.read(PIECE)
    while len(block) == PIECE:
        end = block.rfind(b"\n") + 1 or max(block.rfind(b" "), 0) or character_end(block)
        yield block[:end]
        rest = block[end:]
        block = rest + stream.read(PIECE - len(rest))
    if block:
        yield block


def character_end(block: bytes) -> int:
    """The length of the block without a UTF-8 sequence that its end would cut."""
    for back in range(1, min(4, len(block) + 1)):
        byte = block[-back]
        if byte >= 0xC0:
            wanted = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(block) - back if back < wanted else len(block)
        if byte < 0x80:
            break
    return len(block)
