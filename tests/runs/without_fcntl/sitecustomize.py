"""A Python that lacks what Windows lacks: fcntl, pread and the flags of open; msvcrt locks bytes of an open file, as there.

Python imports a module of this name first of all, in every process that has this folder on its path.
"""

import os
import struct
import subprocess  # noqa: F401  (it takes a system with msvcrt for Windows, so it comes before)
import sys
from fcntl import F_GETFL, F_OFD_SETLK, F_RDLCK, F_WRLCK
from fcntl import fcntl as control
from types import ModuleType

LOCK_LAYOUT = "hhqqi"  # struct flock: type, whence, start, length, process


def locking(handle: int, mode: int, count: int) -> None:
    """Windows' mandatory lock of `count` bytes from where the file stands, against all other handles: PermissionError."""
    assert mode == msvcrt.LK_NBLCK
    writable = (
        control(handle, F_GETFL) & os.O_RDWR
    )  # a handle to read with may hold only the lock that readers share here
    try:
        control(
            handle, F_OFD_SETLK, struct.pack(LOCK_LAYOUT, F_WRLCK if writable else F_RDLCK, os.SEEK_CUR, 0, count, 0)
        )
    except BlockingIOError as error:
        raise PermissionError(13, "Permission denied") from error


msvcrt = ModuleType("msvcrt")
msvcrt.locking, msvcrt.LK_NBLCK = locking, 2
sys.modules["msvcrt"] = msvcrt
sys.modules["fcntl"] = None
for name in ("pread", "O_NOFOLLOW", "O_NONBLOCK"):
    delattr(os, name)
