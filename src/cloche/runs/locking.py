"""Log files as each system has them: opened without waiting or following a link, read at an offset, and locked.

A lock belongs to an open file and ends with it, or with its process, however that ends. POSIX locks the file (flock), Windows
one byte of it far behind its end, so that the log stays readable while it is written.
"""

from __future__ import annotations

import errno
import importlib
import os
import stat
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    msvcrt: Any = importlib.import_module("msvcrt")

NEVER_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_FAR = (1 << 31) - 2  # the last offset that Windows' C library locks


def open_plainly(path: Path, flags: int) -> int:
    """A handle on the file of that very name: a link raises OSError, and a pipe does not wait for its other end."""
    if not hasattr(os, "O_NOFOLLOW") and os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        raise OSError(errno.EINVAL, "it is not a plain file")
    return os.open(path, flags | NEVER_WAIT, 0o644)


def read_at(handle: int, count: int, offset: int) -> bytes:
    """At most `count` bytes from `offset` on."""
    os.lseek(handle, offset, os.SEEK_SET)
    return os.read(handle, count)


def lock(handle: int, shared: bool = False) -> bool:
    """Locks an open file against every other handle, without waiting; False where one of them has it.

    A `shared` lock stands beside others that are shared (on Windows it does not).
    """
    try:
        if "msvcrt" in globals():
            os.lseek(handle, _FAR, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
