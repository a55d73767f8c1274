"""The hash chain of a log: every line carries a hash that depends on all lines before it, so that no change goes
unnoticed.

A line is the JSON object of one record whose last field is `chain`:

    {"step": 5, "loss": 2.5, "chain": "1f6a0c9be372"}

`chain` is the first 12 hexadecimal digits of sha256(previous + head). `previous` is the chain of the line before it as ASCII,
in the first line the log's name (`metrics`); `head` is the line's own bytes up to the quotation mark that opens `"chain"`.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, NamedTuple

from cloche.files import to_json

Record = dict[str, Any]

FIELD = "chain"
DIGITS = 12
_LINK = re.compile(rb'"chain": "([0-9a-f]{12})"\}\n', re.DOTALL)
LINK_BYTES = len(b'"chain": "0123456789ab"}\n')


class Anchor(NamedTuple):
    """The state of a log: its number of records, and the chain of the last one (the log's name if there is none)."""

    records: int
    chain: str


def first(path: Path) -> str:
    """The anchor of an empty log."""
    return path.name.partition(".")[0]


def follow(previous: str, head: bytes) -> str:
    """The chain of a line with this head."""
    return hashlib.sha256(previous.encode() + head).hexdigest()[:DIGITS]


def line_of(record: Record, previous: str) -> tuple[bytes, str]:
    """A record as the line after `previous`, and its chain."""
    if FIELD in record:
        raise ValueError(f"a record has a field {FIELD!r}, which each line of a log gets by itself")
    head = to_json(record)[:-1] + (b", " if record else b"")
    chain = follow(previous, head)
    return head + b'"chain": "' + chain.encode() + b'"}\n', chain


def stated(line: bytes) -> str | None:
    """The chain that a complete line carries; None for a line that `line_of` did not write."""
    link = _LINK.fullmatch(line, max(0, len(line) - LINK_BYTES))
    return link[1].decode() if link else None
