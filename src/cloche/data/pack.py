"""Documents to packed tokens: shards that can be memory-mapped, each document followed by the end token."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
from typing_extensions import TypedDict

from cloche.data.reading import Document
from cloche.errors import TokenizerMissing
from cloche.files import write_atomically
from cloche.text import Tokenizer

INDEX = "data.json"
SPLITS = ("train", "validation")
SHARD_TOKENS = 64 << 20  # 128 MB a shard in uint16: small enough to copy and to hash again alone

# The engine encodes a batch on all cores and keeps about a hundred bytes a token while it does: 4M characters, some 300 MB.
BATCH_CHARACTERS = 4 << 20
BATCH_TEXTS = 4096


class Shard(TypedDict):
    """One file of packed tokens."""

    file: str
    tokens: int
    sha256: str


class Part(TypedDict):
    """One source of a mixture in one side of the text, which holds the sources one after the other."""

    name: str
    tokens: int
    bytes: int
    documents: int


class Split(TypedDict):
    """One side of the text: its files, and what they stand for; `bytes` are UTF-8, end tokens not counted."""

    shards: list[Shard]
    tokens: int
    bytes: int
    documents: int
    mixture: NotRequired[list[Part]]


class DataIndex(TypedDict):
    """data/data.json: the packed text of a run, and what was read for it.

    >>> from cloche.data import DataIndex
    >>> DataIndex(vocab=300, dtype="uint16", end=0, splits={})["dtype"]
    'uint16'
    """

    vocab: int
    dtype: str
    end: int
    splits: dict[str, Split]
    sources: NotRequired[dict[str, Any]]


Divided = Iterable[tuple[str, Document]]  # pieces of documents with their side


def pack(sources: Iterable[tuple[str, Divided]], tokenizer: Tokenizer, folder: Path) -> DataIndex:
    """Writes train-00000.bin, validation-00000.bin, ... into `folder`; returns the index, not yet written (see `write_index`).

    Sources are (name, its text), packed one after the other; a name of "" is that of the only one. Tokens are little-endian
    uint16 (vocab < 65,536) or uint32. `bytes` of a split are the UTF-8 bytes of its text, end tokens not counted. Raises
    ClocheError when the tokenizer has no end token or the disk is full.
    """
    if tokenizer.end is None:
        raise TokenizerMissing("The tokenizer has no end-of-document token; use one that has, such as <|endoftext|>.")
    dtype = np.dtype("<u2" if tokenizer.vocab < 1 << 16 else "<u4")
    writers = {split: _Writer(folder, split, dtype) for split in SPLITS}
    try:
        for name, divided in sources:
            for batch in _batches(divided):
                encoded = tokenizer.encode_batch([document.text for _, document in batch], special=False)
                for (split, document), ids in zip(batch, encoded, strict=True):
                    if document.last:
                        ids.append(tokenizer.end)
                    writers[split].add(ids, document)
            for writer in writers.values():
                writer.finish(name)
    finally:
        for writer in writers.values():
            writer.close()
    return {
        "vocab": tokenizer.vocab,
        "dtype": dtype.name,
        "end": tokenizer.end,
        "splits": {split: writer.summary() for split, writer in writers.items()},
    }


def write_index(folder: Path, index: DataIndex) -> None:
    """Writes data.json, atomically and last: a folder without it was not packed to the end."""
    write_atomically(
        folder / INDEX, (json.dumps(index, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "replace")
    )


def _batches(divided: Iterable[tuple[str, Document]]) -> Iterator[list[tuple[str, Document]]]:
    batch: list[tuple[str, Document]] = []
    characters = 0
    for split, document in divided:
        if batch and (characters + len(document.text) > BATCH_CHARACTERS or len(batch) == BATCH_TEXTS):
            yield batch
            batch, characters = [], 0
        batch.append((split, document))
        characters += len(document.text)
    if batch:
        yield batch


class _Writer:
    """The shards of one split."""

    def __init__(self, folder: Path, split: str, dtype: np.dtype) -> None:
        self._folder, self._split, self._dtype = folder, split, dtype
        self._file: Any = None
        self._hash = hashlib.sha256()
        self._shards: list[Shard] = []
        self._bytes = self._documents = 0
        self._parts: list[Part] = []

    def add(self, ids: list[int], document: Document) -> None:
        tokens = np.asarray(ids, dtype=self._dtype)
        while len(tokens):
            if self._file is None:
                self._open()
            shard = self._shards[-1]
            part, tokens = np.split(tokens, [SHARD_TOKENS - shard["tokens"]])
            data = part.tobytes()
            self._file.write(data)
            self._hash.update(data)
            shard["tokens"] += len(part)
            if shard["tokens"] == SHARD_TOKENS:
                self.close()
        self._bytes += len(document.text.encode())
        self._documents += document.last

    def _open(self) -> None:
        name = f"{self._split}-{len(self._shards):05d}.bin"
        self._file = open(self._folder / name, "wb")  # noqa: SIM115  (closed in close)
        self._hash = hashlib.sha256()
        self._shards.append({"file": name, "tokens": 0, "sha256": ""})  # the hash is known once it is full

    def close(self) -> None:
        """Finishes the shard at hand, if any; on the disk before data.json names it."""
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        self._shards[-1]["sha256"] = self._hash.hexdigest()

    def finish(self, name: str) -> None:
        """Notes what was added since the source before."""
        so_far = Counter(tokens=self._tokens(), bytes=self._bytes, documents=self._documents)
        for part in self._parts:
            so_far.subtract({key: part[key] for key in so_far})  # type: ignore[literal-required]
        self._parts.append({"name": name, **so_far})  # type: ignore[typeddict-item]

    def _tokens(self) -> int:
        return sum(shard["tokens"] for shard in self._shards)

    def summary(self) -> Split:
        whole: Split = {
            "shards": self._shards,
            "tokens": self._tokens(),
            "bytes": self._bytes,
            "documents": self._documents,
        }
        if self._parts and self._parts[0]["name"]:
            whole["mixture"] = self._parts
        return whole
