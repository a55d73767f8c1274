"""Atomic writes of files and folders, hashes, and locks that end with their process.

Everything is written under a temporary name, flushed to disk, and then renamed. The temporary name contains the
process that is writing, so that leftovers of a killed process can be told from a write in progress.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import io
import json
import math
import os
import platform
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from cloche.errors import FileExists, RunBusy, WriteRefused

WRITING = ".writing-"  # prefix of every temporary name; readers skip them
REPLACED = ".replaced-"  # a folder set aside while another takes its name, where the system cannot exchange the two
LOCK = ".lock"  # prefix of lock files
_OWNED = re.compile(r"\.(?:writing|replaced)-(\w+)\.(\d+)\.(\w+)-(?:[0-9a-f]{8}-)?(.*)", re.DOTALL)
_STALE = 24 * 3600  # seconds after which a temporary name from another machine counts as abandoned

# ---- temporary names


def temporary_name(path: Path, kind: str = WRITING) -> Path:
    """A fresh temporary name beside `path`, so that the rename stays on one file system."""
    name = os.fsencode(path.name)[-120:].decode("utf-8", "ignore")  # file systems allow 255 bytes
    token = f"{secrets.token_hex(4)}-" if kind == WRITING else ""
    return path.with_name(f"{kind}{_machine()}.{os.getpid()}.{_started(os.getpid())}-{token}{name}")


def is_abandoned(path: Path) -> bool:
    """Whether `path` is a temporary name whose process has ended; for another machine's, whether it is a day old."""
    match = _OWNED.fullmatch(path.name)
    if match is None:
        return False
    machine, process, started, _ = match.groups()
    if machine == _machine():
        return not (_is_alive(int(process)) and _started(int(process)) == started)
    try:
        return time.time() - path.lstat().st_mtime > _STALE
    except OSError:
        return False


def remove_abandoned(folder: Path) -> None:
    """Removes what killed processes were writing directly in `folder`, and recovers what they were about to replace."""
    for path in sorted(folder.glob(f"{WRITING}*")):
        if is_abandoned(path):
            remove(path)
    recover(folder)


def recover(folder: Path) -> None:
    """Restores the name of folders that a process had set aside in order to replace them when it was killed."""
    for path in folder.glob(f"{REPLACED}*"):
        if is_abandoned(path):
            _recover(path)


def remove(path: Path) -> None:
    """Removes a file or a folder if it can."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def remove_at_once(folder: Path) -> None:
    """Removes a folder in one step: a reader finds all of it or nothing."""
    aside = temporary_name(folder)
    with told(folder):
        os.rename(folder, aside)
        remove(aside)


@cache
def _machine() -> str:
    """An id of this machine or container: process numbers mean nothing on another that shares the folder."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:6]


def _started(process: int) -> str:
    """When a process started, so that a reused process number is not mistaken for it; "0" if the system does not say."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return "0"
    return "ended" if fields[0] in (b"Z", b"X") else fields[19].decode()


def _is_alive(process: int) -> bool:
    if sys.platform == "win32":
        handle = ctypes.windll.kernel32.OpenProcess(0x1000, False, process)  # PROCESS_QUERY_LIMITED_INFORMATION
        ctypes.windll.kernel32.CloseHandle(handle)
        return bool(handle)
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


# ---- writing


def cannot_write(path: Path, error: BaseException) -> WriteRefused:
    """The sentence for a write that the system refused."""
    number = getattr(error, "errno", None)
    found = re.search(r"os error (\d+)", str(error))  # how safetensors names it
    number = int(found[1]) if number is None and found else number
    reason = os.strerror(number) if number else " ".join(str(error).split()) or type(error).__name__
    fixes = {
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): "free some space",
        (errno.EACCES, errno.EPERM, errno.EROFS): "name a folder you may write to",
        (errno.ENAMETOOLONG,): "choose a shorter name",
        (errno.ENOTDIR, errno.EEXIST, errno.EISDIR): "name another place",
    }
    fix = next((fix for numbers, fix in fixes.items() if number in numbers), "check the disk, or name another folder")
    return WriteRefused(f"cannot write {path}: {reason}; {fix}")


def refuse_existing(path: Path, fix: str, read: Iterable[Path] = ()) -> None:
    """Raise ClocheError if `path` exists or cannot be created, before the work whose result would go there.

    `fix` ends the sentence: "choose another --out". `read` are the files that the work reads.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise cannot_write(path, error) from error
    else:
        if any(file.exists() and path.exists() and path.samefile(file) for file in read):
            raise FileExists(f"{path} is the file that is read, and nothing is overwritten: {fix}.")
        raise FileExists(f"{path} exists already, and nothing is overwritten: {fix}.")
    above = next(folder for folder in Path(os.path.abspath(path)).parents if os.path.lexists(folder))
    if not above.is_dir():
        raise WriteRefused(f"{path} cannot be written, because {above} is a file and not a folder: {fix}.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise WriteRefused(f"{path} cannot be written, because nothing may be written in {above}: {fix}.")


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turns a write error of the system for `path`, raised directly or through safetensors, into one sentence."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise cannot_write(path, error) from error


def flush_to_disk(path: Path) -> None:
    """fsync of a file, or of a folder's directory entries."""
    if sys.platform == "win32" and path.is_dir():
        return  # folders cannot be opened there, and need no fsync
    handle = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_folder(folder: Path) -> None:
    """fsync of every file under `folder`, then of the folders, the top one last. Files get the permissions of the
    umask, but for those that have another name elsewhere."""
    readable = folder.stat().st_mode & 0o666  # safetensors creates files readable by their owner only
    for parent, _, names in os.walk(folder, topdown=False):
        for path in (Path(parent) / name for name in names):
            if path.stat().st_nlink == 1:
                os.chmod(path, readable)
            flush_to_disk(path)
        flush_to_disk(Path(parent))


def write_atomically(path: Path, data: bytes) -> None:
    """Writes `data` to `path` atomically: a reader, or a kill at any moment, finds the old bytes or the new ones."""
    temporary = temporary_name(path)
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            remove(temporary)
            raise
        flush_to_disk(path.parent)


@contextmanager
def writing_file(path: Path) -> Iterator[Path]:
    """`write_atomically` for writers that need a path: yields a temporary path with the same file name."""
    with temporary_folder(path) as temporary:  # a folder, because some writers create further files beside their own
        yield temporary / path.name
        flush_folder(temporary)
        move(temporary / path.name, path)


def move(file: Path, path: Path) -> None:
    """Renames a complete file, replacing the one of that name."""
    with told(path):
        os.replace(file, path)
        flush_to_disk(path.parent)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder beside `path` and removes it at the end, after removing leftovers of killed processes."""
    temporary = temporary_name(path)
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent)
        temporary.mkdir()
        try:
            yield temporary
        finally:
            remove(temporary)


@contextmanager
def writing_folder(folder: Path, replace: bool = False) -> Iterator[Path]:
    """Yields an empty folder to fill, which then becomes `folder` atomically, flushed to disk.

    An existing `folder` is exchanged for the new one if `replace` is set, and raises ClocheError otherwise; an empty
    one may always be filled.
    """
    folder = Path(os.path.realpath(folder))  # also where it is a link to one, or "."
    with temporary_folder(folder) as fresh:
        yield fresh
        flush_folder(fresh)
        put_in_place(fresh, folder, replace)


def put_in_place(fresh: Path, folder: Path, replace: bool = False) -> None:
    """Renames a complete folder: see `writing_folder`."""
    with told(folder):
        _put(fresh, folder, replace)
        flush_to_disk(folder.parent)


def _put(fresh: Path, folder: Path, replace: bool) -> None:
    if folder.is_symlink() or folder.is_file():
        raise WriteRefused(f"{folder} is not a folder; name another place")
    if sys.platform == "win32" and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    try:
        os.rename(fresh, folder)  # replaces an empty folder, on systems that allow it
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES) or not folder.is_dir():
            raise
        if not replace:
            raise FileExists(f"{folder} is there already, and nothing is overwritten; name another folder") from None
        if not _exchange(fresh, folder):
            old = temporary_name(folder, REPLACED)
            os.rename(folder, old)
            os.rename(fresh, folder)
            remove(old)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps the names of two folders in one step; False if the system cannot."""
    libc = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    here = -100  # AT_FDCWD
    if rename := getattr(libc, "renameat2", None):
        done = rename(here, os.fsencode(one), here, os.fsencode(other), ctypes.c_uint(2))  # RENAME_EXCHANGE
    elif rename := getattr(libc, "renamex_np", None):
        done = rename(os.fsencode(one), os.fsencode(other), ctypes.c_uint(2))  # RENAME_SWAP
    else:
        return False
    return done == 0


def _recover(path: Path) -> None:
    """Restores the name of a folder that was set aside, unless its replacement has it."""
    match = _OWNED.fullmatch(path.name)
    home = path.with_name(match[4]) if match else path
    if home.exists():
        remove(path)
    else:
        with contextlib.suppress(OSError):
            path.rename(home)


# ---- JSON


def to_json(value: Any, indent: int | None = None) -> bytes:
    """Strict UTF-8 JSON: NaN and infinities become null, arrays become lists.

    Whatever has `tolist` (numpy and torch arrays and scalars) or is a Path is converted; other objects raise TypeError.
    """
    text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, indent=indent)
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate becomes \udxxx, which is its JSON escape


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


# ---- hashes


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        return sha256_of_open(file)


def sha256_of_open(file: io.BufferedReader) -> str:
    """`sha256_of` of a file from where it is read on."""
    return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_all(paths: Iterable[Path]) -> dict[Path, str]:
    """The sha256 of each file, on all cores."""
    files = sorted(
        paths, key=lambda path: -path.stat().st_size
    )  # the largest first, so that no core waits for it at the end
    with ThreadPoolExecutor(min(len(files), os.cpu_count() or 1) or 1) as pool:
        return dict(zip(files, pool.map(sha256_of, files), strict=True))


def cache_folder() -> Path:
    """The folder for what can be recomputed: CLOCHE_CACHE, or `cloche` in the user's cache folder."""
    if named := os.environ.get("CLOCHE_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "cloche"


# ---- locks


@contextmanager
def locked(path: Path, seconds: float = 30, otherwise: str = "") -> Iterator[None]:
    """Holds a lock on the file `path`, waiting up to `seconds` for another holder. The lock ends with this process.

    Raises ClocheError (with the message `otherwise`, if given) if another process keeps it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=seconds, poll_interval=0.01, thread_local=False)
    with told(path):
        try:
            lock.acquire()
        except Timeout:
            raise RunBusy(otherwise or f"another process keeps {path} locked; wait for it or stop it") from None
    try:
        yield
    finally:
        lock.release()
