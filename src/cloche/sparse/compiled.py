"""Compiles kernels once per machine, keeps them in the user's cache folder, and announces it while it happens.

The cache folder's name is a hash of the source of all kernels and of the versions that compile it, so two states of the source
never share one; numba itself distinguishes kinds of CPU. Only kernels import this file, because it imports the compiler.
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
inlined: Any = numba.njit(inline="always", error_model="numpy")  # for functions that kernels call
config: Any = numba.config  # its attributes are created at run time

_announced: dict[Callable[..., Any], tuple[str, float]] = {}  # name and seconds of the kernels that Python calls


def kernel(name: str | None = None, seconds: float = 0, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """numba.njit for a kernel, cached between processes and run without the interpreter lock.

    A kernel that Python calls has a `name`, and the measured CPU `seconds` that it takes to compile with everything it calls.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(nogil=True, error_model="numpy", **options)(function)
        if config.DISABLE_JIT:  # for debuggers: the function itself
            return dispatcher
        _announced[function] = (name or function.__name__, seconds)
        before = config.CACHE_DIR
        config.CACHE_DIR = before or str(kernels_folder())  # read once, where a kernel is defined
        try:
            dispatcher._cache = _Cache(function)
        finally:
            config.CACHE_DIR = before
        return dispatcher

    return compiled


@cache
def kernels_folder() -> Path:
    """Where compiled kernels are kept: a folder in the user's cache; if that is not writable, a temporary folder owned by the
    user; if there is none either, one that is removed when this process ends."""
    try:
        return _writable(cache_folder() / f"kernels-{_state()}")
    except OSError:
        pass
    user = os.getuid() if hasattr(os, "getuid") else 0
    try:
        folder = Path(tempfile.gettempdir()) / f"cloche-{user}-kernels-{_state()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if found.st_uid == user and not folder.is_symlink() and found.st_mode & 0o022 == 0:  # its files are executed
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
    """Hash of the kernels' source and of the versions that compile it."""
    versions = [numba.__version__, version("llvmlite"), sys.version]
    sources = [path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*_kernel.py"))]
    return hashlib.sha256("\n".join(versions).encode() + b"".join(sources)).hexdigest()[:16]


class _Cache(FunctionCache):
    """Numba's cache of a function, which treats damaged files as missing and skips writing if it fails."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # a damaged pickle may raise anything
            try:
                self.flush()
            except OSError:
                self.disable()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError:  # disk full, or no longer writable: the next process compiles it again
            self.disable()


class _Announcer(event.Listener):
    """Reports on stderr that a kernel is being compiled, and how long that takes. Nested compilations are not reported."""

    depth = 0

    def on_start(self, event: Any) -> None:
        announced = _announced.get(event.data["dispatcher"].py_func)
        if announced is None:
            return
        self.depth += 1
        if self.depth == 1 and announced[1]:
            where = config.CACHE_DIR or kernels_folder()
            sys.stderr.write(f"compiling the {announced[0]} kernel once, about {announced[1]:g} s; kept in {where}\n")
            sys.stderr.flush()

    def on_end(self, event: Any) -> None:
        self.depth -= event.data["dispatcher"].py_func in _announced


event.register("numba:compile", _Announcer())
