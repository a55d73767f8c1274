"""Hashes of files that are remembered between processes: weights are hashed once for as long as they do not change."""

from __future__ import annotations

import re
import time
from pathlib import Path

from cloche.errors import ClocheError
from cloche.files import cache_folder, sha256_of, write_atomically


def known_sha256(path: Path) -> str:
    """`sha256_of`, remembered in the user's cache folder for as long as the file is the same by what the system says of it.

    That is its device, inode, size, and times of modification and change. A cache that cannot be read or written only costs
    the time of hashing again; a file that has just changed is not remembered, for it may change again within one tick of the
    file system's clock.
    """
    stat = path.stat()
    key = f"{stat.st_dev} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
    if known := _remembered(key):
        return known
    found = sha256_of(path)
    if time.time() - max(stat.st_mtime, stat.st_ctime) > 2:
        _remember(f"{key} {found}\n")
    return found


_MOST_REMEMBERED = 1 << 20  # bytes of the list; the older half is dropped beyond


def _remembered(key: str) -> str | None:
    try:
        lines = (cache_folder() / "sha256.txt").read_bytes()[-2 * _MOST_REMEMBERED :]
    except OSError:
        return None
    found = re.findall(rb"^" + key.encode() + rb" ([0-9a-f]{64})$", lines, re.MULTILINE)
    return found[-1].decode() if found else None


def _remember(line: str) -> None:
    path = cache_folder() / "sha256.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > _MOST_REMEMBERED:
            write_atomically(path, path.read_bytes()[-_MOST_REMEMBERED // 2 :].partition(b"\n")[2])
        with open(path, "ab", buffering=0) as file:  # one write: lines of several processes do not mix
            file.write(b"\n" * _torn(path) + line.encode())
    except (OSError, ClocheError):
        return


def _torn(path: Path) -> bool:
    data = path.read_bytes()[-1:]
    return data not in (b"", b"\n")
