"""Files and folders that are wholly there or not there, their hashes, and locks that end with their process.

Whatever is written stands under a temporary name until it is complete and on the disk, and is then renamed. A temporary name
tells which process writes under it, so that what a killed process left can be told from what a living one is writing.
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

WRITING = ".writing-"  # every temporary name starts so; readers skip it
REPLACED = ".replaced-"  # a folder set aside while another takes its name, where the system cannot exchange the two
LOCK = ".lock"  # the names of lock files start so
_OWNED = re.compile(r"\.(?:writing|replaced)-(\w+)\.(\d+)\.(\w+)-(?:[0-9a-f]{8}-)?(.*)", re.DOTALL)
_STALE = 24 * 3600  # seconds after which what a process on another machine left is taken to be abandoned

# ---- temporary names


def temporary_name(path: Path, kind: str = WRITING) -> Path:
    """A fresh temporary name beside `path`, so that the rename stays on one file system."""
    name = os.fsencode(path.name)[-120:].decode("utf-8", "ignore")  # file systems allow 255 bytes
    token = f"{secrets.token_hex(4)}-" if kind == WRITING else ""
    return path.with_name(f"{kind}{_machine()}.{os.getpid()}.{_started(os.getpid())}-{token}{name}")


def is_abandoned(path: Path) -> bool:
    """Whether `path` is a temporary name whose process has ended. One of another machine is, a day after it last changed."""
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
    """Gives what killed processes had set aside in `folder`, to put another in its place, its name back."""
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
    """Removes a folder so that a reader finds it whole or not at all."""
    aside = temporary_name(folder)
    with told(folder):
        os.rename(folder, aside)
        remove(aside)


@cache
def _machine() -> str:
    """Tells apart the machines and containers that may share a folder, and so know each other's process numbers not."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:6]


def _started(process: int) -> str:
    """When a process started, so that its number used again is not taken for it; "0" where the system does not say."""
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
    """Raise ClocheError where `path` is taken or cannot be made, before the work is done whose result would go there.

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
    """Turns what the system says to a refused write of `path`, directly or through safetensors, into one sentence."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise cannot_write(path, error) from error


def flush_to_disk(path: Path) -> None:
    """fsync of a file or of a folder's list of names."""
    if sys.platform == "win32" and path.is_dir():
        return  # a folder cannot be opened there, and its names are kept without
    handle = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_folder(folder: Path) -> None:
    """fsync of every file under `folder`, then of the folders, its own last. Files become as readable as the folder is."""
    readable = folder.stat().st_mode & 0o666  # as the umask has it; safetensors creates files for their owner alone
    for parent, _, names in os.walk(folder, topdown=False):
        for path in (Path(parent) / name for name in names):
            os.chmod(path, readable)
            flush_to_disk(path)
        flush_to_disk(Path(parent))


def write_atomically(path: Path, data: bytes) -> None:
    """Writes `data` to `path`: a reader, or a kill at any moment, finds the old bytes or the new, never a mixture."""
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
    """`write_atomically` for a writer that needs a path: yields one that ends in the same name, to be written there."""
    with temporary_folder(path) as temporary:  # a folder: writers may put files of their own beside the one they write
        yield temporary / path.name
        flush_folder(temporary)
        move(temporary / path.name, path)


def move(file: Path, path: Path) -> None:
    """Gives a complete file its name, in the place of the one that has it."""
    with told(path):
        os.replace(file, path)
        flush_to_disk(path.parent)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder beside `path`, which is removed at the end; what killed processes left there goes first."""
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
    """Yields an empty folder to fill, which then becomes `folder`, complete and on the disk, or not at all.

    A `folder` that is there already is exchanged for the new one where `replace` is set, and raises ClocheError otherwise;
    an empty one may always be filled.
    """
    folder = Path(os.path.realpath(folder))  # also where it is a link to one, or "."
    with temporary_folder(folder) as fresh:
        yield fresh
        flush_folder(fresh)
        put_in_place(fresh, folder, replace)


def put_in_place(fresh: Path, folder: Path, replace: bool = False) -> None:
    """Gives a complete folder its name: see `writing_folder`."""
    with told(folder):
        _put(fresh, folder, replace)
        flush_to_disk(folder.parent)


def _put(fresh: Path, folder: Path, replace: bool) -> None:
    if folder.is_symlink() or folder.is_file():
        raise WriteRefused(f"{folder} is not a folder; name another place")
    if sys.platform == "win32" and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    try:
        os.rename(fresh, folder)  # takes the place of an empty folder, where the system has it so
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
    """Lets two folders trade their names in one step; False where the system cannot."""
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
    """Gives a folder that was set aside its name back, unless its successor has taken it."""
    match = _OWNED.fullmatch(path.name)
    home = path.with_name(match[4]) if match else path
    if home.exists():
        remove(path)
    else:
        with contextlib.suppress(OSError):
            path.rename(home)


# ---- JSON


def to_json(value: Any, indent: int | None = None) -> bytes:
    """UTF-8 JSON that any strict parser reads: NaN and the infinities become null, arrays become lists.

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
    files = sorted(paths, key=lambda path: -path.stat().st_size)  # the largest first: no core ends up waiting for it
    with ThreadPoolExecutor(min(len(files), os.cpu_count() or 1) or 1) as pool:
        return dict(zip(files, pool.map(sha256_of, files), strict=True))


def cache_folder() -> Path:
    """Where what can be made again is kept between processes: CLOCHE_CACHE, or `cloche` in the user's cache folder."""
    if named := os.environ.get("CLOCHE_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "cloche"


# ---- locks


@contextmanager
def locked(path: Path, seconds: float = 30, otherwise: str = "") -> Iterator[None]:
    """Holds a lock on the file `path`, which ends with this process however it ends; waits so long for another holder.

    Raises ClocheError, with the sentence `otherwise` where one is given, if the other keeps it.
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
