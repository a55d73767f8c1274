"""Append-only logs: one JSON object a line, one writer each, readable at any moment, even after a kill in mid-line.

A record is complete once its newline is on the file. A last line without one is torn: readers drop it, and the next
writer cuts it off before it appends. Non-finite floats are written as null, so that every JSON parser reads every line.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from pathlib import Path
from typing import Any

from cloche.errors import ClocheError
from cloche.files import to_json, write_atomically

Record = dict[str, Any]
_LINE = re.compile(rb"[^\n]*\n")  # a torn last line does not match


class LogWriter:
    """The one writer of a log. Holds a lock on the file until `close`, or until its process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = _open_locked(path)
        self._size = _complete_bytes(self._handle)
        os.ftruncate(self._handle, self._size)

    def append(self, record: Record) -> None:
        """Hands the record to the operating system as one line before it returns: a kill of this process keeps it."""
        if self._handle < 0:
            raise ValueError(f"{self.path} is closed")
        line = to_json(record) + b"\n"
        try:
            written = 0
            while written < len(line):
                written += os.write(self._handle, line[written:])
        except OSError as error:
            os.ftruncate(self._handle, self._size)
            raise ClocheError(
                f"cannot append to {self.path}: {error.strerror}; free some space and resume the run"
            ) from error
        self._size += len(line)

    def close(self) -> None:
        """Flushes to disk and lets the next writer in. Closing twice is harmless."""
        if self._handle >= 0:
            os.fsync(self._handle)
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open_locked(path: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise ClocheError(
                f"another process is writing {path}; wait until it ends, or stop it, before writing to this run"
            ) from error
        # `truncate` may have renamed a new file over the one just opened: then the lock is on a file without a name.
        if path.exists() and os.path.samestat(os.fstat(handle), os.stat(path)):
            return handle
        os.close(handle)


def _complete_bytes(handle: int, piece: int = 1 << 16) -> int:
    """Bytes up to and including the last newline."""
    end = os.fstat(handle).st_size
    while end > 0:
        start = max(0, end - piece)
        newline = os.pread(handle, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def is_being_written(path: Path) -> bool:
    """True while a `LogWriter`, in this process or another, holds the log."""
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def read_from(path: Path | str, offset: int = 0) -> tuple[list[Record], int]:
    """The complete records after byte `offset`, and the offset to ask from next time. A missing log gives ([], 0).

    When the log was rewritten since (`Run.truncate_logs`) and `offset` no longer stands at a line's start, reading
    begins again at 0: the caller sees steps it has seen before, and the newer records replace the older ones.
    Raises ClocheError for a complete line that is no JSON object.
    """
    path = Path(path)
    if not path.exists():
        return [], 0
    with open(path, "rb") as file:
        if offset > 0:
            file.seek(offset - 1)
            if file.read(1) != b"\n":
                offset = 0
                file.seek(0)
        data = file.read()
    records = []
    position = offset
    for line in _LINE.findall(data):
        records.append(_parse(line, path, position))
        position += len(line)
    return records, position


def _parse(line: bytes, path: Path, position: int) -> Record:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ClocheError(f"{path} holds a line at byte {position} that is not JSON; see `cloche verify`") from error
    if not isinstance(record, dict):
        raise ClocheError(f"{path} holds a line at byte {position} that is no object; see `cloche verify`")
    return record


def truncate(path: Path, step: int) -> int:
    """Atomically rewrites a log without the records of steps after `step`; returns how many went."""
    with LogWriter(path):
        lines = _LINE.findall(path.read_bytes())
        kept = []
        position = 0
        for line in lines:
            record_step = _parse(line, path, position).get("step")
            position += len(line)
            if record_step is None or record_step <= step:
                kept.append(line)
        if len(kept) < len(lines):
            write_atomically(path, b"".join(kept))
        return len(lines) - len(kept)
