"""Files that are either wholly there or not there: written under a temporary name, flushed to disk, renamed."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from pathlib import Path
from typing import Any

from cloche.errors import ClocheError

WRITING = (
    ".writing-"  # every temporary name starts so; readers skip it, and a killed write leaves nothing but such names
)


def temporary_name(path: Path) -> Path:
    """A fresh temporary name beside `path`, so that the rename stays on one file system."""
    return path.with_name(f"{WRITING}{path.name}-{secrets.token_hex(4)}")


def flush_to_disk(path: Path) -> None:
    """fsync of a file or of a folder's list of names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, data: bytes) -> None:
    """Writes `data` to `path`: a reader, or a kill at any moment, finds the old bytes or the new, never a mixture."""
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        flush_to_disk(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ClocheError(
            f"cannot write {path}: {error.strerror}; free some space or name a folder you may write to"
        ) from error


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


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
