"""How kernels are compiled: once for a machine, kept in the user's cache folder, and said while it happens.

What is kept stands under a name made from the source of all kernels and the versions that compile them, so that no two states
of the source ever meet; numba itself tells apart the kinds of CPU. Only kernels import this file: it brings the compiler.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cloche.files import cache_folder
from cloche.missing import extra

NEEDED = "Compiled pursuits and learners need numba"
numba = extra("numba", "sparse", NEEDED)
event: Any = extra("numba.core.event", "sparse", NEEDED)
FunctionCache: Any = extra("numba.core.caching", "sparse", NEEDED).FunctionCache
inlined: Any = numba.njit(inline="always", error_model="numpy")  # for what kernels call
config: Any = numba.config  # its names are made while it runs

_told: dict[Callable[..., Any], tuple[str, float]] = {}  # what is said of the kernels that Python calls


def kernel(name: str | None = None, seconds: float = 0, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """numba.njit for a kernel, kept between processes and without the interpreter lock. One that Python calls has a `name`
    and, measured, the CPU `seconds` that it and what it calls take to compile."""

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(nogil=True, error_model="numpy", **options)(function)
        if config.DISABLE_JIT:  # for debuggers: the function itself
            return dispatcher
        _told[function] = (name or function.__name__, seconds)
        before = config.CACHE_DIR
        config.CACHE_DIR = before or str(kernels_folder())  # read once, where a kernel is defined
        try:
            dispatcher._cache = _Kept(function)
        finally:
            config.CACHE_DIR = before
        return dispatcher

    return compiled


@cache
def kernels_folder() -> Path:
    """Where compiled kernels are kept: a folder in the user's cache; where that cannot be written, a temporary one of the
    user's own; where there is none such either, one that ends with this process."""
    try:
        return _writable(cache_folder() / f"kernels-{_state()}")
    except OSError:
        pass
    user = os.getuid() if hasattr(os, "getuid") else 0
    try:
        folder = Path(tempfile.gettempdir()) / f"cloche-{user}-kernels-{_state()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if found.st_uid == user and not folder.is_symlink() and found.st_mode & 0o022 == 0:  # what lies there is run
            return _writable(folder)
    except OSError:
        pass
    own = Path(tempfile.mkdtemp(prefix="cloche-kernels-"))
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return own


def _writable(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        return folder


def _state() -> str:
    """What the kernels' source and the versions that compile it come to."""
    room = Path(__file__).parent
    told = [numba.__version__, version("llvmlite"), sys.version]
    sources = [path.read_bytes() for path in sorted(room.rglob("*_kernel.py"))]
    return hashlib.sha256("\n".join(told).encode() + b"".join(sources)).hexdigest()[:16]


class _Kept(FunctionCache):
    """Numba's cache of a function, in which what is damaged is not there, and what cannot be written is not kept."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whatever a pickle of any bytes may raise
            try:
                self.flush()
            except OSError:
                self.disable()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError:  # full, or no longer writable: it is compiled again in the next process
            self.disable()


class _Teller(event.Listener):
    """Says on stderr that a kernel is being compiled, and how long that will take. What it calls is compiled within it."""

    depth = 0

    def on_start(self, event: Any) -> None:
        told = _told.get(event.data["dispatcher"].py_func)
        if told is None:
            return
        self.depth += 1
        if self.depth == 1 and told[1]:
            where = config.CACHE_DIR or kernels_folder()
            sys.stderr.write(f"compiling the {told[0]} kernel once, about {told[1]:g} s; kept in {where}\n")
            sys.stderr.flush()

    def on_end(self, event: Any) -> None:
        self.depth -= event.data["dispatcher"].py_func in _told


event.register("numba:compile", _Teller())
