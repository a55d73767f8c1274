"""Taking a file into a run without a second copy of its bytes, where the file system allows it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
from pathlib import Path
from typing import Literal

from cloche.files import refuse_existing, told

How = Literal["reflink", "hard link", "copy"]
_FICLONE = 0x40049409  # linux/fs.h: the new file shares the old one's blocks until either is written to


def take(source: Path, target: Path, copy: bool = False) -> How:
    """Makes `target`, which must not be there, a file of the same bytes as `source`; returns how.

    Symbolic links are followed at the source, so that the run holds plain files. A reflink is tried first, then a hard link,
    then a copy; `copy` takes the last at once. The source's bytes, times and permissions stay as they are.

    >>> from pathlib import Path
    >>> from cloche.runs import take
    >>> _ = Path("tokens.bin").write_bytes(b"abc")
    >>> take(Path("tokens.bin"), Path("same.bin"), copy=True), Path("same.bin").read_bytes()
    ('copy', b'abc')
    """
    refuse_existing(target, "name another place")
    source = Path(os.path.realpath(source))
    with told(target):
        if not copy:
            if _reflink(source, target):
                return "reflink"
            with contextlib.suppress(OSError):  # another file system, or one without hard links
                os.link(source, target)
                return "hard link"
        shutil.copyfile(source, target)
    return "copy"


def _reflink(source: Path, target: Path) -> bool:
    """Whether the file system made `target` a clone; nothing is left at `target` where it did not."""
    if sys.platform == "darwin":
        clone = getattr(ctypes.CDLL(None), "clonefile", None)
        return clone is not None and clone(os.fsencode(source), os.fsencode(target), 0) == 0
    if sys.platform != "linux":
        return False
    try:
        from fcntl import ioctl

        with source.open("rb") as old, target.open("xb") as new:
            ioctl(new.fileno(), _FICLONE, old.fileno())
    except (ImportError, OSError):
        target.unlink(missing_ok=True)
        return False
    return True
