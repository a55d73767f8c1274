"""Opens a file of a corpus, plain or compressed, by its first bytes; a damaged one raises one clear sentence."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from cloche.data.reading.encoding import recognised
from cloche.errors import FileDamaged, FileUnreadable, FileUnsupported
from cloche.missing import extra

COMPRESSED = (".gz", ".zst", ".xz", ".bz2")
ARCHIVES = (".zip", ".7z", ".tar", ".tgz", ".txz", ".tbz2", ".rar")

# What `zstd --ultra --long=31` needs: the window is memory, but only as much of it as the file really fills is taken.
LARGEST_WINDOW = 1 << 31
LARGEST_XZ = 2 << 30  # bytes that one .xz file may take to unpack; xz -9 takes 65 MB

NESTED = 3  # a file compressed twice is unpacked twice; more is a bomb
STEP = 1 << 10  # compressed bytes unpacked at once: a thousand may stand for 30 MB

SKIPPABLE = [bytes([0x50 + i, 0x2A, 0x4D, 0x18]) for i in range(16)]  # zstd frames that hold no data
FOREIGN = {
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "a zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a rar archive",
    b"\x04\x22\x4d\x18": "compressed with lz4",
    b"%PDF-": "a PDF",
    b"ARROW1": "an Arrow file",
    b"Obj\x01": "an Avro file",
    b"\x89HDF\r\n": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"\x89PNG\r\n": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"GIF8": "a picture",
    b"SQLite format 3\0": "a SQLite database",
    b"\x7fELF": "a program",
}


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turns the decompressors' errors for an unreadable file into one sentence that names it."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, _error("zstandard", "ZstdError")) as error:
        raise FileUnsupported(_why_not_unpacked(path, error)) from error
    except (_error("pyarrow", "ArrowException"), OSError) as error:
        number = getattr(error, "errno", None)
        if number is None:  # arrow's, also where it is an OSError: what it says may begin with an empty line
            reason = next((line.strip() for line in str(error).splitlines() if len(line) > 2), "it is damaged")
            raise FileUnsupported(f"{path} is not a readable parquet file ({reason}); write it again.") from error
        raise FileUnreadable(
            f"{path} cannot be read ({os.strerror(number)}); check its permissions and the disk."
        ) from error


def _error(package: str, name: str) -> type[Exception]:
    """What a package raises, once it is loaded: before, it cannot have raised anything, and EOFError stands for it."""
    return getattr(sys.modules.get(package), name, EOFError)


def _why_not_unpacked(path: Path, error: Exception) -> str:
    reason = str(error)
    if "too much memory" in reason:
        return f"{path} was compressed with a window above 2 GiB; compress it again with zstd --long=31 or less."
    if "Allocation error" in reason or "Memory usage limit" in reason:
        return f"{path} takes more memory to unpack than there is; unpack it elsewhere, or compress it with a smaller window."
    return f"{path} is truncated or damaged ({reason}); copy it there again."


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The file's decompressed content as a stream, and the raw file (its `tell` gives the progress).

    How it is compressed is read from its first bytes, whatever its name. ClocheError for archives and other known kinds of
    file that hold no plain text, and for a name that promises a compression over bytes that are neither that nor text.
    """
    with open(path, "rb") as raw:
        content: Any = raw
        for _ in range(NESTED):
            inner = _unpacked(content)
            if inner is None:
                break
            content = inner
        head = content.peek(512)[:512]
        for magic, what in FOREIGN.items():
            if head.startswith(magic) and not _is_text(head):
                raise FileUnsupported(
                    f"{path} is {what}, which is not read; save what it holds as text, .jsonl or parquet."
                )
        if head[257:262] == b"ustar":
            raise FileUnsupported(f"{path} is a tar archive, which is not read; unpack it.")
        if content is raw and path.suffix.lower() in COMPRESSED and not (_is_text(head) or recognised(head)):
            raise FileDamaged(
                f"{path} is truncated or damaged (it is not compressed as its name says); copy it there again."
            )
        try:
            yield cast(BinaryIO, content), raw
        finally:
            if content is not raw:
                content.close()


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


def _is_text(head: bytes) -> bool:
    try:
        head[:-4].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in head


def _unpacked(packed: BinaryIO) -> io.BufferedReader | None:
    """The content of a compressed stream; None if its first bytes belong to no known compression."""
    head: bytes = packed.peek(10)[:10]  # type: ignore[attr-defined]
    if head.startswith(b"\x1f\x8b"):
        inner: Any = gzip.GzipFile("", "rb", fileobj=packed)
    elif head.startswith(b"\x28\xb5\x2f\xfd") or head[:4] in SKIPPABLE:
        zstandard = extra("zstandard", "zstd", "Reading .zst needs zstandard")
        inner = _Members(packed, lambda: zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW).decompressobj())
    elif head.startswith(b"\xfd7zXZ\0"):
        inner = _Members(packed, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=LARGEST_XZ), padding=b"\0")
    elif head.startswith(b"BZh") and head[4:10] in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90"):
        inner = _Members(packed, bz2.BZ2Decompressor)
    else:
        return None
    return io.BufferedReader(inner, buffer_size=1 << 17)


class _Members(io.RawIOBase):
    """The members (frames, streams) of a compressed file in turn; a truncated last one raises EOFError. The
    libraries' own readers accept a truncated .zst as complete.
    """

    def __init__(self, raw: BinaryIO, begin: Callable[[], Any], padding: bytes = b"") -> None:
        self._raw, self._begin, self._padding = raw, begin, padding
        self._member: Any = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        filled = 0
        while filled < len(buffer):
            if not self._output and not self._more():
                break
            count = min(len(buffer) - filled, len(self._output))
            buffer[filled : filled + count] = self._output[:count]
            self._output = self._output[count:]
            filled += count
        return filled

    def _more(self) -> bool:
        """Unpacks until there is output; False at the end of the file."""
        while not self._output:
            if not self._input:
                self._input = self._raw.read(STEP)
            if self._member is None:
                self._input = self._input.lstrip(self._padding) if self._padding else self._input
            if not self._input and self._member is not None:
                raise EOFError("its last part is missing")
            if not self._input:
                if self._padding and self._raw.peek(1):  # type: ignore[attr-defined]
                    continue  # padding alone was read
                return False
            self._decompress()
        return True

    def _decompress(self) -> None:
        if self._member is None:
            self._member = self._begin()
        try:
            self._output = memoryview(self._member.decompress(self._input))
        except OSError as error:  # bz2's word for damage
            raise EOFError(str(error)) from error
        self._input = b""
        if self._member.eof:
            self._input = self._member.unused_data
            self._member = None
