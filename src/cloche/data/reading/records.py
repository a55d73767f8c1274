"""Records of JSON: one on each line, or one after the other in an array; and the field of each that is its text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

from cloche.data.reading.pieces import character_end
from cloche.errors import FieldUnknown, FileTooLarge, RecordInvalid, why_not_json

Decode = Callable[[bytes], str]

LONGEST = 64 << 20  # bytes of one record: parsing it takes several times as much memory
BLOCK = 1 << 16


def lines(stream: BinaryIO, path: str) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, numbered from 1. Raises ClocheError for one longer than 64 MB."""
    number = 0
    while line := stream.readline(LONGEST):
        number += 1
        if len(line) == LONGEST:
            raise FileTooLarge(f"{path}:{number} is longer than 64 MB; write its record in several shorter ones.")
        if line := line.removeprefix(b"\xef\xbb\xbf").strip():
            yield number, line


def values(stream: BinaryIO, decode: Decode, path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON array, or of a file of objects one after the other, numbered from 1; laid out in any way.

    ClocheError, with the record's number, for anything else and for a record that is longer than 64 MB.
    """
    scan = _Scan(stream, decode)
    number, in_array = 0, scan.next() == "["
    if in_array:
        scan.skip()
    while (sign := scan.next()) and sign != "]":
        number += 1
        yield number, scan.object(f"record {number} of {path}")
        if in_array and scan.next() == ",":
            scan.skip()
        elif in_array and scan.next() != "]":
            raise RecordInvalid(
                f"{path} is not JSON: after its record {number} there is neither a comma nor the end; repair it."
            )
    if in_array:
        scan.skip()
        if scan.next():
            raise RecordInvalid(f"{path} is not JSON: something follows its array of {number} records; repair it.")


class _Scan:
    """A cursor in a stream of JSON text that holds only the current record in memory."""

    def __init__(self, stream: BinaryIO, decode: Decode) -> None:
        self._stream, self._decode = stream, decode
        self._text, self._at = "", 0
        self._rest = b""
        self._decoder = json.JSONDecoder()

    def next(self) -> str:
        """The next character that is not a space; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n\ufeff":
                self._at += 1
            if self._at < len(self._text) or not self._more(BLOCK):
                return self._text[self._at : self._at + 1]

    def skip(self) -> None:
        self._at += 1

    def object(self, where: str) -> dict[str, Any]:
        while True:
            try:
                value, self._at = self._decoder.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                held = len(self._text) - self._at
                if held >= LONGEST:
                    raise FileTooLarge(
                        f"{where} is longer than 64 MB or not JSON; write it in several shorter ones."
                    ) from error
                if not self._may_be_cut(error) or not self._more(max(BLOCK, held)):
                    raise RecordInvalid(f"{where} is not JSON ({why_not_json(error)}); repair or delete it.") from error
                continue
            if not isinstance(value, dict):
                raise RecordInvalid(f"{where} is a {type(value).__name__}, not an object with fields; repair it.")
            return value

    def _may_be_cut(self, error: Exception) -> bool:
        """Whether the text read so far may be the beginning of a record."""
        if not isinstance(error, json.JSONDecodeError):
            return False
        return "Unterminated" in error.msg or error.pos >= len(self._text) - 16

    def _more(self, count: int) -> bool:
        """Reads more, dropping what was consumed; False at the end of the stream."""
        data = self._stream.read(count)
        whole = self._rest + data
        end = character_end(whole) if data else len(whole)
        self._rest = whole[end:]
        self._text = self._text[self._at :] + self._decode(whole[:end])
        self._at = 0
        return bool(whole)


def parsed(line: str, where: str) -> dict[str, Any]:
    """The record on a line. Raises ClocheError if it is not a JSON object."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RecordInvalid(f"{where} is not JSON ({why_not_json(error)}); repair or delete that line.") from error
    if not isinstance(record, dict):
        raise RecordInvalid(f"{where} holds {_kind(record)}, not an object with fields; repair that line.")
    return record


def text_of(record: dict[str, Any], field: str, where: str) -> str:
    """The text in a field, empty for null. Raises ClocheError for a missing field, naming those that exist, or one
    that is not text."""
    if field not in record:
        raise FieldUnknown(
            f"{where} has no field {field!r}; its fields are {names(record)}: name one of them as the field (--field)."
        )
    text = record[field]
    if text is not None and not isinstance(text, str):
        raise FieldUnknown(f"Field {field!r} of {where} holds {_kind(text)}, not text; name another field.")
    return text or ""


def names(fields: Iterable[str]) -> str:
    """Up to 30 field names in a row."""
    fields = [field[:60] for field in fields]
    return ", ".join(fields[:30]) + (", ..." if len(fields) > 30 else "") or "none"


def _kind(value: object) -> str:
    """What a JSON value is, with its article."""
    name = {"NoneType": "null", "dict": "object", "str": "string"}.get(type(value).__name__, type(value).__name__)
    return name if name == "null" else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
