"""The encoding of a file: from its byte order mark, the pattern of its NULs, the caller, or else UTF-8."""

from __future__ import annotations

import codecs
import difflib
import io
import unicodedata
from encodings.aliases import aliases
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cloche.data.reading.reading_report import ReadingReport
from cloche.errors import TextEncoding

UTF8 = "utf-8"
# In this order: the mark of UTF-16 begins that of UTF-32.
MARKS = {
    codecs.BOM_UTF8: UTF8,
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
WIDE = {"utf-32-le": ("<u4", 4), "utf-32-be": (">u4", 4), "utf-16-le": ("<u2", 2), "utf-16-be": (">u2", 2)}
NO_CHARACTERS = {
    "Cc",
    "Cn",
    "Co",
    "Cs",
}  # general categories that are rare in running text, apart from line ends and tabs
MOST_INVALID = 0.01  # share of a file's bytes above which it is in another encoding, or not text


def checked(encoding: str | None) -> str | None:
    """The name as Python spells it. Raises ClocheError, with the nearest name, if it is not a text encoding."""
    if encoding is None:
        return None
    try:
        info = codecs.lookup(encoding)
    except (LookupError, ValueError):
        info = None
    escapes = (
        "unicode_escape",
        "raw-unicode-escape",
        "raw_unicode_escape",
        "unicode-escape",
        "undefined",
        "idna",
        "punycode",
    )
    if info is not None and info._is_text_encoding and info.name not in escapes and info.incrementaldecoder:
        return UTF8 if info.name == "utf-8-sig" else info.name
    names = sorted({*aliases, *aliases.values()} - {"hex_codec", "base64_codec", "rot_13"})
    near = difflib.get_close_matches(encoding[:40].lower().replace("-", "_"), names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "name one such as latin-1, cp1252, shift_jis or utf-16."
    raise TextEncoding(f"There is no text encoding {encoding[:40]!r}; {hint}")


def mark(head: bytes) -> bytes:
    """The byte order mark at the start of the bytes; empty if there is none."""
    for found, encoding in MARKS.items():
        if head.startswith(found) and (encoding != "utf-32-le" or _share_of_text(head, encoding) is not None):
            return found
    return b""


def recognised(head: bytes) -> str | None:
    """The encoding recognised from a file's first bytes, by a mark or by NULs; None if neither shows one."""
    if found := mark(head):
        return MARKS[found]
    if b"\0" not in head:
        return None
    as_bytes = np.frombuffer(head, dtype=np.uint8)
    controls = (as_bytes < 32) & ((as_bytes < 9) | (as_bytes > 13))
    if _is_utf8(head) and controls.mean() < 0.02:
        return None  # a few NULs in ordinary text
    shares = {encoding: share for encoding in WIDE if (share := _share_of_text(head, encoding)) is not None}
    fit = [encoding for encoding, (text, _) in shares.items() if text >= 0.98]
    return max(fit, key=lambda encoding: shares[encoding][1], default=None)  # the wrong order of bytes has no spaces


def _is_utf8(head: bytes) -> bool:
    try:
        codecs.utf_8_decode(head, "strict", False)
    except UnicodeDecodeError:
        return False
    return True


def _share_of_text(head: bytes, encoding: str) -> tuple[float, float] | None:
    """The shares of characters that text may hold, NULs none of them, and of ASCII; None for bytes of no such encoding."""
    try:
        text, _ = codecs.getdecoder(encoding)(head[: len(head) // 4 * 4 or len(head) // 2 * 2], "strict")
    except UnicodeDecodeError as error:
        if "utf-16" not in encoding or error.end < len(head) - 4:
            return None
        text = head[: error.start].decode(encoding)
    if not text:
        return None
    good = sum(c in "\t\n\r\f\ufeff" or unicodedata.category(c) not in NO_CHARACTERS for c in text)
    return good / len(text), sum(map(str.isascii, text)) / len(text)


def is_utf8_throughout(stream: BinaryIO) -> bool:
    """Whether the stream is valid UTF-8 to its end and holds more than ASCII: no other encoding looks like that by chance."""
    decoder, wide = codecs.getincrementaldecoder(UTF8)(), False
    try:
        while block := stream.read(1 << 20):
            wide = wide or not block.isascii()
            decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return wide


class Tally:
    """Counts what was not in a file's encoding: it goes into the report, and too much of it is refused."""

    def __init__(self, path: Path, encoding: str, report: ReadingReport) -> None:
        self.path, self.encoding, self._report = path, encoding, report
        self.size = 0  # bytes of text read
        self._invalid = self._nuls = 0

    def decode(self, data: bytes, name: str, end: bool = False) -> str:
        """UTF-8 text; each invalid sequence becomes U+FFFD and is counted. `end`: the file may have been cut in a character."""
        self.size += len(data)
        self._nuls += data.count(0)
        try:
            return data.decode(UTF8)
        except UnicodeDecodeError:
            text, used = codecs.utf_8_decode(data, "replace", False)
            count = text.count("\ufffd") - data.count("\ufffd".encode())
            cut = used < len(data)
            self.invalid(name, count + cut, serious=count + (cut and not end))
            return text + "\ufffd" * cut

    def invalid(self, name: str, count: int, serious: int) -> None:
        """Counts replaced sequences; `serious` ones are evidence against the encoding."""
        self._report.invalid(name, count)
        self._invalid += serious

    def check(self) -> None:
        """Raises ClocheError when more than 1% of what was read is invalid or NUL; called at the file's end."""
        if self._invalid > MOST_INVALID * self.size:
            name = "UTF-8" if self.encoding == UTF8 else self.encoding
            raise TextEncoding(
                f"{self._invalid / self.size:.1%} of {self.path} is not {name}; name its encoding with --encoding "
                "(encoding= in Python), such as latin-1, cp1252 or shift_jis, or leave the file out."
            )
        if self._nuls > MOST_INVALID * self.size:
            raise TextEncoding(
                f"{self.path} is a binary file ({self._nuls / self.size:.0%} of it is NUL bytes), or text in an encoding that "
                "has to be named with --encoding (encoding= in Python), such as utf-16-le; otherwise leave it out."
            )


class Transcoded(io.RawIOBase):
    """A stream of text in some encoding as a stream of UTF-8, in blocks; `tally` counts what cannot be decoded."""

    def __init__(self, raw: BinaryIO, tally: Tally, name: str) -> None:
        self._raw, self._tally, self._name = raw, tally, name
        self._decoder = codecs.getincrementaldecoder(tally.encoding)(errors="replace")
        self._output = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        while not self._output and not self._ended:
            data = self._raw.read(1 << 16)
            self._ended = not data
            text = self._decoder.decode(data, final=self._ended)
            if "\ufffd" in text:
                count = max(0, text.count("\ufffd") - self._genuine(data))
                self._tally.invalid(self._name, count, serious=0 if self._ended else count)
            self._output = memoryview(text.encode(UTF8, "replace"))
        count = min(len(buffer), len(self._output))
        buffer[:count] = self._output[:count]
        self._output = self._output[count:]
        return count

    def _genuine(self, data: bytes) -> int:
        """How many U+FFFD the file itself contains."""
        if self._tally.encoding in WIDE:
            kind, unit = WIDE[self._tally.encoding]
            return int((np.frombuffer(data[: len(data) // unit * unit], dtype=kind) == 0xFFFD).sum())
        try:
            return data.count("\ufffd".encode(self._tally.encoding))
        except UnicodeEncodeError:
            return 0
