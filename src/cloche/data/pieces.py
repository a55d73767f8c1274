"""Bytes to text in pieces of bounded size: cut at line ends where there are any, never inside a character."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from cloche.data.report import Report

PIECE = 1 << 20  # bytes; a few such pieces are encoded at once


def cut(stream: BinaryIO) -> Iterator[bytes]:
    """The stream in non-empty pieces of at most 1 MiB, each ending with a line, else a word, else a character."""
    block = stream.read(PIECE)
    while len(block) == PIECE:
        end = block.rfind(b"\n") + 1 or max(block.rfind(b" "), 0) or _character_end(block)
        yield block[:end]
        rest = block[end:]
        block = rest + stream.read(PIECE - len(rest))
    if block:
        yield block


def _character_end(block: bytes) -> int:
    """The length of the block without a UTF-8 sequence that its end would cut."""
    for back in range(1, 4):
        byte = block[-back]
        if byte >= 0xC0:
            wanted = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(block) - back if back < wanted else len(block)
        if byte < 0x80:
            break
    return len(block)


def decode(data: bytes, name: str, report: Report) -> str:
    """UTF-8 text; each invalid sequence becomes U+FFFD and is counted."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("utf-8", errors="replace")
        report.invalid(name, text.count("\ufffd") - data.count("\ufffd".encode()))
        return text


def without_surrogates(text: str, name: str, report: Report) -> str:
    """Text as a JSON escape may write it: paired surrogates are joined, lone ones become U+FFFD and are counted."""
    try:
        text.encode()
    except UnicodeEncodeError:
        joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", errors="replace")
        report.invalid(name, joined.count("\ufffd") - text.count("\ufffd"))
        return joined
    return text
