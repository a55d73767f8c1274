"""Opening a file of a corpus: plain, .gz or .zst, with a position on disk and one clear sentence when it is damaged."""

from __future__ import annotations

import gzip
import io
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa
import zstandard

from cloche.errors import ClocheError


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turns what the engines raise for an unreadable file into one sentence that names it."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise ClocheError(f"{path} is truncated or damaged ({error}); copy it there again.") from error
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise ClocheError(f"{path} is not a readable parquet file ({reason}); write it again.") from error
    except OSError as error:
        raise ClocheError(
            f"{path} cannot be read ({error.strerror or error}); check its permissions and the disk."
        ) from error


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The file's content as a stream, and the file as it lies on disk (its `tell` is for progress)."""
    with open(path, "rb") as raw:
        suffix = path.suffix.lower()
        if suffix == ".gz":
            with gzip.open(raw) as content:
                yield cast(BinaryIO, content), raw
        elif suffix == ".zst":
            with io.BufferedReader(_Zstandard(raw), buffer_size=1 << 17) as content:
                yield cast(BinaryIO, content), raw
        else:
            yield raw, raw


@contextmanager
def opened_for_seeking(path: Path) -> Iterator[BinaryIO]:
    """As `opened`, but a compressed file is first unpacked into an unnamed temporary file."""
    with opened(path) as (content, raw):
        if content is raw:
            yield raw
            return
        with tempfile.TemporaryFile() as unpacked:
            shutil.copyfileobj(content, unpacked, 1 << 20)
            unpacked.seek(0)
            yield cast(BinaryIO, unpacked)


class _Zstandard(io.RawIOBase):
    """The frames of a .zst file one after the other. zstandard's own reader takes a truncated file for a complete one."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        while not self._output:
            if not self._input:
                self._input = self._raw.read(1 << 14)
                if not self._input and self._frame is not None:
                    raise EOFError("the last zstd frame is incomplete")
                if not self._input:
                    return 0
            self._decompress()
        count = min(len(buffer), len(self._output))
        buffer[:count] = self._output[:count]
        self._output = self._output[count:]
        return count

    def _decompress(self) -> None:
        if self._frame is None:
            self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._output = memoryview(self._frame.decompress(self._input))
        self._input = b""
        if self._frame.eof:
            self._input = self._frame.unused_data
            self._frame = None
