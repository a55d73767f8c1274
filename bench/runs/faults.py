"""Faults for a run folder, drawn by a seed over every file, every kind of fault and every place in the file.

    for fault in islice(faults(run, seed=0), 300):
        copy = ...                           # of the run
        fault.apply(copy)
        assert verify(copy).problems or snapshot(copy) == snapshot(run)

Nothing is left out: locks, manifests and files with the same bytes are drawn like all others, so that a draw now and then
changes nothing (two equal files change places); `snapshot` tells such a draw.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """Something that may happen to a run folder; `apply` does it to a copy of the run that it was drawn for."""

    description: str
    apply: Callable[[Path], None]


def faults(run: Path, seed: int = 0) -> Iterator[Fault]:
    """An endless row of faults for a run, the same for the same seed and the same names of files."""
    rng = random.Random(seed)
    files = sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
    folders = sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_dir())
    while True:
        kind = rng.choice(list(KINDS))
        target = rng.choice(folders if kind == "remove the folder" else files)
        place, other, salt = rng.random(), rng.choice(files), rng.getrandbits(32)
        yield _fault(kind, target, _Draw(place, other, salt))


@dataclass(frozen=True)
class _Draw:
    place: float  # where in the file, 0 to 1
    other: str  # a second file
    salt: int


def _fault(kind: str, target: str, draw: _Draw) -> Fault:
    where = f" with {draw.other}" if kind == "swap" else f" at {draw.place:.0%}"
    return Fault(f"{kind}: {target}{where}", lambda folder: KINDS[kind](folder, folder / target, draw))


def snapshot(run: Path) -> dict[str, str]:
    """The kind and the bytes of everything in a folder but empty locks, whose coming and going means nothing."""
    found = {}
    for path in run.rglob("*"):
        mode = path.lstat().st_mode
        shown = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(mode) else ""
        if not (path.name.startswith(".lock") and stat.S_ISREG(mode) and path.lstat().st_size == 0):
            found[path.relative_to(run).as_posix()] = f"{stat.S_IFMT(mode)} {os.access(path, os.R_OK)} {shown}"
    return found


# ---- the kinds


def _flip(folder: Path, path: Path, draw: _Draw) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[int(draw.place * len(data))] ^= 1 << draw.salt % 8
    path.write_bytes(data)


def _cut(folder: Path, path: Path, draw: _Draw) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(draw.place * len(data))])


def _empty(folder: Path, path: Path, draw: _Draw) -> None:
    path.write_bytes(b"")


def _delete(folder: Path, path: Path, draw: _Draw) -> None:
    path.unlink()


def _to_folder(folder: Path, path: Path, draw: _Draw) -> None:
    path.unlink()
    path.mkdir()


def _to_link(folder: Path, path: Path, draw: _Draw) -> None:
    """The bytes are still there, but outside the run."""
    outside = folder.parent / f"{folder.name}-outside"
    path.rename(outside)
    path.symlink_to(outside)


def _to_pipe(folder: Path, path: Path, draw: _Draw) -> None:
    path.unlink()
    os.mkfifo(path)


def _append(folder: Path, path: Path, draw: _Draw) -> None:
    data = path.read_bytes()
    last = data[data.rfind(b"\n", 0, -1) + 1 :]
    tails = (b"\n", b"\0", b" ", b"{}\n", b'{"step": 1}\n', last, random.Random(draw.salt).randbytes(100))
    path.write_bytes(data + tails[draw.salt % len(tails)])


def _swap(folder: Path, path: Path, draw: _Draw) -> None:
    other = folder / draw.other
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


def _lines(path: Path, draw: _Draw) -> tuple[list[bytes], int]:
    lines = path.read_bytes().splitlines(keepends=True)
    return lines, int(draw.place * len(lines))


def _duplicate_line(folder: Path, path: Path, draw: _Draw) -> None:
    lines, at = _lines(path, draw)
    path.write_bytes(b"".join([*lines[:at], *lines[at : at + 1], *lines[at:]]))


def _delete_line(folder: Path, path: Path, draw: _Draw) -> None:
    lines, at = _lines(path, draw)
    path.write_bytes(b"".join(lines[:at] + lines[at + 1 :]))


def _reorder_lines(folder: Path, path: Path, draw: _Draw) -> None:
    lines, at = _lines(path, draw)
    if lines:
        other = draw.salt % len(lines)
        lines[at], lines[other] = lines[other], lines[at]
    path.write_bytes(b"".join(lines))


def _edit_number(folder: Path, path: Path, draw: _Draw) -> None:
    """Another last digit: JSON stays JSON."""
    data = path.read_bytes()
    numbers = list(re.finditer(rb"\d\b", data))
    if numbers:
        at = numbers[int(draw.place * len(numbers))].start()
        digit = b"%d" % ((int(data[at : at + 1]) + 1 + draw.salt % 9) % 10)
        data = data[:at] + digit + data[at + 1 :]
    path.write_bytes(data)


def _lock_away(folder: Path, path: Path, draw: _Draw) -> None:
    """Means nothing to the superuser, who can read everything."""
    path.chmod(0)


def _remove_folder(folder: Path, path: Path, draw: _Draw) -> None:
    shutil.rmtree(path)


KINDS: dict[str, Callable[[Path, Path, _Draw], None]] = {
    "flip a bit": _flip,
    "cut": _cut,
    "empty": _empty,
    "delete": _delete,
    "put a folder in its place": _to_folder,
    "put a link in its place": _to_link,
    "put a pipe in its place": _to_pipe,
    "append": _append,
    "swap": _swap,
    "write a line twice": _duplicate_line,
    "delete a line": _delete_line,
    "swap two lines": _reorder_lines,
    "edit a number": _edit_number,
    "take away the right to read": _lock_away,
    "remove the folder": _remove_folder,
}
