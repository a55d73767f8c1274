"""Append-only logs: one JSON object per line, one writer each, readable at any moment, even after a kill in mid-line.

A record is complete once its newline is written. A last line without one is torn: readers drop it, and the next
writer truncates it before appending. Non-finite floats are written as null, so that every JSON parser reads every line.
Each line ends in its link of the log's hash chain (`cloche.runs.chain`), which readers of records do not see.
"""

from __future__ import annotations

import json
import os
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cloche.errors import ClocheError, FileDamaged, RunBusy, RunDamaged, WriteRefused
from cloche.files import flush_to_disk, remove, temporary_name, write_atomically
from cloche.runs import chain
from cloche.runs.chain import Anchor, Record
from cloche.runs.locking import lock, open_plainly, read_at

LOGS = ("metrics", "health", "samples", "events", "steps")  # that training writes; callbacks and others have their own
_PIECE = 1 << 16


def warn(sentence: str) -> None:
    """The default for `notify`: a Python warning."""
    warnings.warn(sentence, stacklevel=4)


class LogWriter:
    """The only writer of a log. Holds a lock on the file until `close`, or until its process ends.

    A log that is deleted, renamed or replaced while it is being written is restored in full, whatever replaced it is
    kept beside it, and `notify` is called with one sentence about it: by default a Python warning.

    >>> run = cloche.Run.create("first", recipe="", seed=0, command=["cloche"])
    >>> with run.log("metrics") as log:
    ...     log.append({"step": 1, "loss": 5.5})
    >>> run.read_log("metrics")
    [{'step': 1, 'loss': 5.5}]
    """

    def __init__(self, path: Path, notify: Callable[[str], object] = warn) -> None:
        self.path = path
        self.notify = notify
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = _open_locked(path)
        self._size = _complete_bytes(self._handle)
        os.ftruncate(self._handle, self._size)
        self._chain = _last_chain(self._handle, self._size, path)

    def append(self, record: Record) -> None:
        """Writes the record as one line before returning, so that it survives a kill of this process."""
        if self._handle < 0:
            raise ValueError(f"{self.path} is closed")
        line, link = chain.line_of(record, self._chain)
        self.check()
        try:
            written = 0
            while written < len(line):
                written += os.write(self._handle, line[written:])
        except OSError as error:
            os.ftruncate(self._handle, self._size)
            raise WriteRefused(
                f"cannot append to {self.path}: {error.strerror}; free some space and resume the run"
            ) from error
        self._size += len(line)
        self._chain = link

    def check(self) -> None:
        """Notices, like `append` and `close`, that the log was deleted, replaced or changed, and restores what it
        can.

        Raises ClocheError where the whole run folder is gone.
        """
        if self._handle < 0:
            return
        held = os.fstat(self._handle)
        try:
            named = os.lstat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            named = None
        if named is None or not os.path.samestat(named, held):
            self._put_back(named is not None)
        elif held.st_size != self._size:
            self._size, was = _complete_bytes(self._handle), self._size
            os.ftruncate(self._handle, self._size)
            self.notify(
                f"{self.path} was changed by something else while it was written: it had {held.st_size:,} bytes where "
                f"{was:,} were written; `cloche verify` says which records are affected"
            )

    def _put_back(self, replaced: bool) -> None:
        """Writes the contents of the open file under its name again, and continues with that."""
        if not self.path.parent.parent.is_dir():
            raise RunDamaged(
                f"{self.path.parent.parent} was moved or deleted while it was written to; if it was moved, resume it where "
                "it is now"
            )
        aside = _free_name(self.path) if replaced else None
        temporary = temporary_name(self.path)
        try:
            self.path.parent.mkdir(exist_ok=True)
            _copy(self._handle, self._size, temporary)
            if aside:
                os.rename(self.path, aside)
            os.rename(temporary, self.path)
            flush_to_disk(self.path.parent)
        except OSError as error:
            remove(temporary)
            raise WriteRefused(
                f"{self.path} was deleted or replaced while it was written, and cannot be put back: {error.strerror}; "
                "free some space and resume the run"
            ) from error
        handle = _open_locked(self.path)
        os.close(self._handle)
        self._handle = handle
        kept = f"what took its place is kept as {aside.name}" if aside else "it was deleted or renamed"
        self.notify(f"{self.path} was put back with all its records: {kept} while it was written")

    def close(self) -> None:
        """Flushes to disk and releases the lock. Closing twice is harmless."""
        if self._handle >= 0:
            try:
                self.check()
            finally:
                os.fsync(self._handle)
                os.close(self._handle)
                self._handle = -1

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _free_name(path: Path) -> Path:
    """A name beside a log that is not a log's."""
    number = 1
    while os.path.lexists(found := path.with_name(f"{path.name}.replaced-{number}")):
        number += 1
    return found


def _copy(handle: int, size: int, to: Path) -> None:
    with open(to, "xb") as file:
        done = 0
        while done < size:
            piece = read_at(handle, min(size - done, 1 << 20), done)
            if not piece:
                break
            file.write(piece)
            done += len(piece)
        file.flush()
        os.fsync(file.fileno())


def _open_locked(path: Path) -> int:
    while True:
        try:
            handle = open_plainly(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        except OSError as error:
            raise WriteRefused(
                f"cannot write {path}: {error.strerror}; a log is a plain file inside the run that you may write to"
            ) from error
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise WriteRefused(f"cannot write {path}: it is not a plain file; move it away")
            if not lock(handle):
                raise RunBusy(
                    f"another process is writing {path}; wait until it ends, or stop it, before writing to this run"
                )
            # `truncate` may have renamed a new file over the one just opened: then the lock is on a file without a name.
            if path.exists() and os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except ClocheError:
            os.close(handle)
            raise
        os.close(handle)


def _complete_bytes(handle: int, before: int | None = None) -> int:
    """Bytes up to and including the last newline, of the whole file or of the part before an offset."""
    end = os.fstat(handle).st_size if before is None else before
    while end > 0:
        start = max(0, end - _PIECE)
        newline = read_at(handle, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _last_chain(handle: int, size: int, path: Path) -> str:
    """The chain of the last line that carries one. Other lines are not ours, and `verify` reports them."""
    while size > 0:
        found = chain.stated(read_at(handle, chain.LINK_BYTES, max(0, size - chain.LINK_BYTES)))
        if found is not None:
            return found
        size = _complete_bytes(handle, size - 1)
    return chain.first(path)


def anchor(path: Path) -> Anchor:
    """The state of a log, after flushing it to disk."""
    with _open_plain(path) as file:
        handle = file.fileno()
        flush_to_disk(path)
        size = _complete_bytes(handle)
        records, done = 0, 0
        while done < size:
            piece = read_at(handle, min(size - done, 1 << 20), done)
            if not piece:
                break
            records += piece.count(b"\n")
            done += len(piece)
        return Anchor(records, _last_chain(handle, size, path))


def paths(folder: Path, name: str = "*") -> list[Path]:
    """The logs in a run's `log` folder, or the one of a name."""
    return sorted(path for path in folder.glob(f"{name}.jsonl") if path.is_file())


def anchors(folder: Path) -> dict[str, Anchor]:
    """How far each log in a run's `log` folder has come."""
    return {path.stem: anchor(path) for path in paths(folder)}


def is_being_written(path: Path) -> bool:
    """True while a `LogWriter`, in this process or another, holds the log."""
    with _open_plain(path) as file:
        return not lock(file.fileno(), shared=True)


def _open_plain(path: Path) -> Any:
    """Opens a log for reading. Never waits: raises ClocheError for a pipe, a folder or whatever else is not a plain file."""
    try:
        handle = open_plainly(path, os.O_RDONLY)
    except OSError as error:
        raise FileDamaged(f"cannot read {path}: {error.strerror}; see `cloche verify`") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise FileDamaged(f"cannot read {path}: it is not a plain file; see `cloche verify`")
    return open(handle, "rb")


def read_from(path: Path | str, offset: int = 0) -> tuple[list[Record], int]:
    """The complete records after byte `offset`, and the offset to ask from next time. A missing log gives ([], 0).

    When the log was rewritten since (`Run.truncate_logs`) and `offset` no longer stands at a line's start, reading
    begins again at 0: the caller sees steps it has seen before, and the newer records replace the older ones.
    Raises ClocheError for a complete line that is not a JSON object.

    >>> run = cloche.Run.create("first", recipe="", seed=0, command=["cloche"])
    >>> from cloche.runs import read_from
    >>> log = run.log("metrics")
    >>> log.append({"step": 1})
    >>> records, offset = read_from("first/log/metrics.jsonl")
    >>> log.append({"step": 2})
    >>> read_from("first/log/metrics.jsonl", offset)[0]
    [{'step': 2}]
    >>> log.close()
    """
    path = Path(path)
    if not os.path.lexists(path):
        return [], 0
    with _open_plain(path) as file:
        if offset > 0:
            file.seek(offset - 1)
            if file.read(1) != b"\n":
                offset = 0
                file.seek(0)
        data = file.read()
    records = []
    position = offset
    for line in _complete_lines(data):
        record = _parse(line, path, position)
        record.pop(chain.FIELD, None)
        records.append(record)
        position += len(line)
    return records, position


def _complete_lines(data: bytes) -> list[bytes]:
    return [line + b"\n" for line in data.split(b"\n")[:-1]]  # the last is torn, or nothing


def _parse(line: bytes, path: Path, position: int) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FileDamaged(f"{path} has a line at byte {position} that is not JSON; see `cloche verify`") from error
    if not isinstance(record, dict):
        raise FileDamaged(f"{path} has a line at byte {position} that is not an object; see `cloche verify`")
    return record


def kept(path: Path, step: int) -> tuple[list[bytes], int]:
    """The complete lines of a log without the records of steps after `step`, and how many were dropped.

    Everything before the first dropped record stays byte for byte. If records without a step follow it, their chain
    is recomputed; ClocheError is raised then if the log is not as it was written, because that would hide it.
    """
    with _open_plain(path) as file:
        lines = _complete_lines(file.read())
    position = 0
    dropped: list[tuple[int, Record]] = []
    keep: list[tuple[int, Record]] = []
    for number, line in enumerate(lines):
        record = _parse(line, path, position)
        at = record.get("step")
        (dropped if isinstance(at, int | float) and at > step else keep).append((number, record))
        position += len(line)
    whole = [lines[number] for number, _ in keep if not dropped or number < dropped[0][0]]
    later = [record for _, record in keep[len(whole) :]]
    if later:
        _require_whole(lines, path)
        previous = chain.stated(whole[-1]) if whole else chain.first(path)
        for record in later:
            record.pop(chain.FIELD)
            line, previous = chain.line_of(record, str(previous))
            whole.append(line)
    return whole, len(dropped)


def _require_whole(lines: list[bytes], path: Path) -> None:
    previous = chain.first(path)
    for number, line in enumerate(lines):
        found = chain.stated(line)
        if found is None or found != chain.follow(previous, line[: -chain.LINK_BYTES]):
            raise RunDamaged(
                f"{path} is not as it was written from record {number + 1} on, so it is not rewritten; restore it from a copy, "
                "or move it away to begin another"
            )
        previous = found


def truncate(path: Path, step: int, before: Callable[[], None]) -> int:
    """Atomically rewrites a log without the records of steps after `step`, after calling `before`; returns how many
    were dropped."""
    handle = _open_locked(path)
    try:
        lines, dropped = kept(path, step)
        if dropped:
            before()
            if (
                os.name == "nt"
            ):  # an open file cannot be replaced there, and another process writes only between these lines
                os.close(handle)
                handle = -1
            write_atomically(path, b"".join(lines))
        return dropped
    finally:
        if handle >= 0:
            os.close(handle)
