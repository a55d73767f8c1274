"""Reading an untrusted run folder: only inside it, only up to limits, and with one JSON parser.

The server, the report and the worker read every file through `RunFiles` and parse all JSON, bodies of requests too,
with `parse_json`. Each refusal is one sentence.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import struct
import tomllib
from collections.abc import Iterator
from operator import index
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from cloche.errors import (
    ArgumentInvalid,
    ClocheError,
    FileDamaged,
    FileTooLarge,
    FileUnreadable,
    PathInvalid,
    RunMissing,
)
from cloche.runs import Run

MOST_DEPTH = 40
MOST_INTEGER = 10**30
MOST_JSON_BYTES = 32 << 20
MOST_RECIPE_BYTES = 1 << 18
MOST_HEADER_BYTES = 8 << 20
MOST_ENTRIES = 20_000
_STEP = re.compile(r"step-\d{6,18}")


class BadRequest(ArgumentInvalid):
    """An invalid request: malformed, too large or out of bounds."""

    status = 400


def clean(value: Any, what: str = "a value", depth: int = 0) -> Any:
    """A JSON value with non-finite numbers replaced by null. Raises ClocheError if it is nested too deeply or has
    huge integers."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        if not -MOST_INTEGER < value < MOST_INTEGER:
            raise FileTooLarge(f"{what} has a number of more than 30 digits, which cannot be shown.")
        return value
    if isinstance(value, list | dict):
        if depth >= MOST_DEPTH:
            raise FileTooLarge(f"{what} is nested more than {MOST_DEPTH} levels deep.")
        if isinstance(value, list):
            return [clean(item, what, depth + 1) for item in value]
        return {str(key): clean(item, what, depth + 1) for key, item in value.items()}
    return value


def parse_json(data: bytes | str, what: str, most: int = MOST_JSON_BYTES) -> Any:
    """The cleaned JSON value. Raises ClocheError, naming `what`, if it is too large, malformed, nested too deeply, or
    has an integer of more than 30 digits."""
    if len(data) > most:
        raise FileTooLarge(f"{what} has {len(data):,} bytes, and at most {most:,} are read.")
    try:
        value = json.loads(data)
    except RecursionError:
        raise FileTooLarge(f"{what} is nested more than {MOST_DEPTH} levels deep.") from None
    except ValueError:  # malformed, not UTF-8, or an integer with thousands of digits
        raise FileDamaged(f"{what} is not valid JSON.") from None
    return clean(value, what)


class RunFiles:
    """A run folder to read from. Paths are relative to it; one that leads outside, through a link or `..`, is
    refused."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.root = _resolved(self.path)

    @classmethod
    def open(cls, path: str | Path) -> RunFiles:
        """Raises ClocheError if there is no run, or one of another format."""
        files = cls(path)
        if files.file("run.json") is not None:
            files.object(
                "run.json"
            )  # refused if deeply nested, huge or malformed, before `Run` parses it without limits
        Run.open(files.path)
        return files

    def file(self, relative: str) -> Path | None:
        """Path of a regular file; None if it is missing. Raises ClocheError if it is not a file or leads outside."""
        path = self._inside(relative)
        try:
            kind = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise FileUnreadable(f"{self._name(relative)} cannot be read: {error.strerror}.") from None
        if not stat.S_ISREG(kind):
            raise FileDamaged(f"{self._name(relative)} is not a file: move it elsewhere.")
        return path

    def open_file(self, relative: str) -> BinaryIO | None:
        """The file opened for reading; None if it is missing."""
        path = self.file(relative)
        try:
            return None if path is None else open(path, "rb")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FileUnreadable(f"{self._name(relative)} cannot be read: {error.strerror}.") from None

    def read(self, relative: str, most: int = MOST_JSON_BYTES) -> bytes | None:
        """The whole file; None if it is missing. Raises ClocheError if it has more than `most` bytes."""
        file = self.open_file(relative)
        if file is None:
            return None
        with file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise FileTooLarge(f"{self._name(relative)} has {size:,} bytes, and at most {most:,} are read.")
            return file.read(most)

    def text(self, relative: str, most: int = MOST_JSON_BYTES) -> str | None:
        data = self.read(relative, most)
        return None if data is None else data.decode("utf-8", "replace")

    def object(self, relative: str) -> dict[str, Any] | None:
        """A JSON object, cleaned; None if the file is missing. Raises ClocheError for anything else."""
        data = self.read(relative)
        if data is None:
            return None
        value = parse_json(data, self._name(relative))
        if not isinstance(value, dict):
            raise FileDamaged(f"{self._name(relative)} is not a JSON object.")
        return value

    def tensor_shapes(self, relative: str) -> dict[str, tuple[int, ...]] | None:
        """The shape of each tensor of a safetensors file, from its header; None if it is missing or damaged."""
        try:
            file = self.open_file(relative)
            if file is None:
                return None
            with file:
                (size,) = struct.unpack("<Q", file.read(8))
                header = parse_json(file.read(min(size, MOST_HEADER_BYTES + 1)), "the header", MOST_HEADER_BYTES)
            tensors = [(name, tensor["shape"]) for name, tensor in header.items() if name != "__metadata__"]
            return {name: tuple(map(index, shape)) for name, shape in tensors}
        except (ClocheError, OSError, struct.error, AttributeError, LookupError, TypeError):
            return None  # reporting damaged files is up to `cloche verify`

    def entries(self, relative: str) -> list[os.DirEntry[str]]:
        """Entries of a folder that do not lead outside, sorted by name; [] if it is missing."""
        try:
            folder = self._inside(relative)
            with os.scandir(folder) as found:
                listed = [entry for entry, _ in zip(found, range(MOST_ENTRIES), strict=False)]
        except (OSError, ClocheError):
            return []
        kept = [e for e in listed if not e.is_symlink() or self.is_inside(f"{relative}/{e.name}")]
        return sorted(kept, key=lambda entry: entry.name)

    def is_inside(self, relative: str) -> bool:
        try:
            self._inside(relative)
        except ClocheError:
            return False
        return True

    def walk(self, relative: str) -> Iterator[str]:
        """Every file below a folder; links are included but not followed."""
        for folder, folders, names in os.walk(self._inside(relative)):
            here = Path(folder).relative_to(self.root)
            yield from (str(here / name) for name in (*names, *folders) if (Path(folder) / name).is_symlink())
            yield from (str(here / name) for name in names if not (Path(folder) / name).is_symlink())

    def all_inside(self, relative: str) -> None:
        """Raises ClocheError if any file below a folder leads outside the run, before another library opens it."""
        for name in self.walk(relative):
            self._inside(name)

    def checkpoints(self) -> list[str]:
        """The names of the complete checkpoints, in order of their steps."""
        names = [entry.name for entry in self.entries("checkpoints") if _STEP.fullmatch(entry.name)]
        return sorted(filter(self._complete, names), key=lambda name: int(name[5:]))

    def _complete(self, name: str) -> bool:
        try:
            manifest = self.object(f"checkpoints/{name}/manifest.json")
        except ClocheError:
            return False
        return manifest is not None and isinstance(manifest.get("files"), dict) and "step" in manifest

    def recipe(self) -> dict[str, Any]:
        """recipe.toml, parsed; {} if that fails: a broken recipe must not prevent viewing the run."""
        try:
            return tomllib.loads(self.text("recipe.toml", MOST_RECIPE_BYTES) or "")
        except (ClocheError, ValueError, RecursionError):
            return {}

    def _inside(self, relative: str) -> Path:
        try:
            path = (self.root / PurePosixPath(relative)).resolve()
        except (OSError, RuntimeError, ValueError):  # a loop of links, a name too long, a zero byte
            raise PathInvalid(f"{self._name(relative)} cannot be read: its path leads nowhere.") from None
        if not path.is_relative_to(self.root):
            raise PathInvalid(f"{self._name(relative)} leads outside the run folder, and is not read.")
        return path

    def _name(self, relative: str) -> str:
        return f"{self.root.name}/{relative}"


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        raise RunMissing(f"{path} is not a folder that can be opened.") from None


def number(value: Any) -> float | int | None:
    """A finite number as it is; None for anything else."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    fits = isinstance(value, int) and not isinstance(value, bool) and -MOST_INTEGER < value < MOST_INTEGER
    return value if fits else None


def words(value: Any, most: int = 20_000) -> str:
    """A text of bounded length; other values are written as JSON."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(clean(value))
    return text if len(text) <= most else text[: most - 1] + "…"
