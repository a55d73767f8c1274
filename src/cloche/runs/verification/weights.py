"""Hashes a safetensors file and looks, in the same pass and in bounded memory, for values that are not finite."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

_PIECE = 1 << 20
_MOST_HEADER = 100_000_000  # bytes, as the format allows
# {dtype: (numpy type of as many bytes, the bits that are all set in what is not finite, and nowhere else)}
_BITS = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("<u1", 0x7C),
    "F8_E4M3": ("<u1", 0x7F),
    "F8_E8M0": ("<u1", 0xFF),
    "C64": ("<u4", 0x7F80_0000),
}
_SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "I32": 4, "U32": 4, "I64": 8, "U64": 8, "C64": 8}
_SIZES |= {name: np.dtype(kind).itemsize for name, (kind, _) in _BITS.items() if name not in _SIZES}


def hash_and_scan(file: BinaryIO, size: int) -> tuple[str, str | None]:
    """The sha256 of a file of `size` bytes, and what is wrong with it as the end of a sentence, None where nothing is."""
    found = hashlib.sha256()
    begin = file.read(8)
    found.update(begin)
    length = int.from_bytes(begin, "little")
    if len(begin) < 8 or length > min(size - 8, _MOST_HEADER):
        return _hash_rest(file, found), "is not readable as safetensors"
    header = file.read(length)
    found.update(header)
    try:
        tensors = list(_tensors(header, size - 8 - length))
    except ValueError as error:
        return _hash_rest(file, found), f"is not readable as safetensors ({error})"
    fault = None
    for name, kind, count in tensors:
        bits = _BITS.get(kind)
        for start in range(0, count, _PIECE):
            piece = file.read(min(_PIECE, count - start))
            found.update(piece)
            if bits and fault is None and _has_not_finite(piece, *bits):
                fault = f"has values that are not finite in {name!r}"
    return _hash_rest(file, found), fault


def _has_not_finite(piece: bytes, kind: str, mask: int) -> bool:
    if len(piece) % np.dtype(kind).itemsize:  # the file became shorter while it was read
        return False
    values = np.frombuffer(piece, kind)
    if kind == "<u4":
        return not np.isfinite(values.view("<f4")).all()
    mask = values.dtype.type(mask)
    return bool(((values & mask) == mask).any())


def _hash_rest(file: BinaryIO, found: Any) -> str:
    while piece := file.read(_PIECE):
        found.update(piece)
    return str(found.hexdigest())


def _tensors(header: bytes, size: int) -> Iterator[tuple[str, str, int]]:
    """(name, dtype, bytes) of each tensor in the order of the file. Raises ValueError unless they fill `size` bytes exactly."""
    try:
        document = json.loads(header)
        entries = [(name, entry) for name, entry in document.items() if name != "__metadata__"]
        entries.sort(key=lambda item: item[1]["data_offsets"])
        end = 0
        for name, entry in entries:
            start, stop = entry["data_offsets"]
            size_of_one = _SIZES.get(str(entry["dtype"]))  # None for a type that is newer than this list
            if (
                start != end
                or stop < start
                or (size_of_one and stop - start != math.prod(entry["shape"]) * size_of_one)
            ):
                raise ValueError(f"{name!r} is not where its header has it")
            end = stop
            yield name, entry["dtype"], stop - start
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError("its header is damaged") from error
    if end != size:
        raise ValueError(f"it has {size:,} bytes of tensors where its header has {end:,}")
