"""Reading what may be damaged: never waits on a pipe, never follows a link, never fails in more than one way."""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from cloche.runs.locking import open_plainly

MOST_JSON = 1 << 28  # bytes of one document
MOST_LINE = 1 << 24  # bytes of one line of a log
MISSING, UNREADABLE = "is missing", "cannot be read"


class Unreadable(Exception):
    """Why a file cannot be used, as the end of a sentence that begins with its name."""


def opened(path: Path) -> io.BufferedReader:
    """A plain file open for reading. Raises Unreadable for anything else."""
    try:
        handle = open_plainly(path, os.O_RDONLY)
    except FileNotFoundError:
        raise Unreadable(MISSING) from None
    except OSError as error:
        raise Unreadable(f"{UNREADABLE} ({error.strerror})") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Unreadable("is not a file")
    return open(handle, "rb")


def lines(file: io.BufferedReader) -> Iterator[bytes]:
    """The lines of a file with their ends; one that is too long for memory comes in pieces, which have none."""
    return iter(partial(file.readline, MOST_LINE), b"")


def content(path: Path) -> bytes:
    """The bytes of a document. Raises Unreadable."""
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size > MOST_JSON:
            raise Unreadable("is too large for what it should be")
        try:
            return file.read()
        except OSError as error:
            raise Unreadable(f"cannot be read ({error.strerror})") from error


def json_object(data: bytes) -> dict[str, Any]:
    """Raises Unreadable for bytes that are not a JSON object, or one nested or long beyond what can be read."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # ValueError: also numbers of thousands of digits
        value = None
    if not isinstance(value, dict):
        raise Unreadable("is not readable as a JSON object")
    return value
