"""Packed tokens, memory-mapped: one long row of ids over all shards of a split."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from cloche.data.pack import INDEX
from cloche.errors import CorpusEmpty, FileDamaged, FileMissing, FileUnreadable

SCANNED = 1 << 20  # tokens looked through at a time


class PackedTokens:
    """The tokens of one split, read from disk as they are asked for.

    `len` is their number, `bytes` and `documents` what they stand for (UTF-8), `end` the id that ends each document;
    `parts` are the sources of a mixture, each of them again such tokens with its `name`.

    >>> from pathlib import Path
    >>> from cloche.data import PackedTokens, prepare
    >>> _ = Path("notes.txt").write_text("the cat sat on the mat. " * 400)
    >>> _ = prepare(["notes.txt"], "corpus", vocab=270, validation=0.1)
    >>> tokens = PackedTokens.open("corpus", "train")
    >>> tokens.documents, tokens.window(0, 5).shape
    (1, (5,))
    """

    def __init__(self, shards: list[np.ndarray], summary: dict[str, Any], end: int, vocab: int | None = None) -> None:
        self._shards = shards
        self._ends = list(accumulate(len(shard) for shard in shards))
        self._first, self._count = 0, self._ends[-1] if self._ends else 0
        self._document_ends: np.ndarray | None = None
        self._summary = summary
        self.bytes: int = summary["bytes"]
        self.documents: int = summary["documents"]
        self.end, self.vocab = end, vocab
        self.name = ""

    @classmethod
    def open(cls, folder: str | Path, split: str) -> PackedTokens:
        """From a run folder, or its data folder. ClocheError when it was not packed to the end or a shard is damaged."""
        folder = Path(folder)
        folder = folder if (folder / INDEX).exists() or not (folder / "data").is_dir() else folder / "data"
        try:
            index = json.loads((folder / INDEX).read_bytes())
        except FileNotFoundError:
            if (folder / "run.json").is_file():
                raise FileMissing(
                    f"{folder} holds no packed text (data/{INDEX}); an adopted run gets some when it is made, with "
                    "`cloche adopt --data`, and one that was stopped while it was prepared when it is resumed."
                ) from None
            raise FileMissing(
                f"{folder} holds no {INDEX}, so no corpus was packed there to the end; prepare it again."
            ) from None
        except (OSError, ValueError) as error:
            raise FileDamaged(f"{folder / INDEX} cannot be read ({error}); prepare the corpus again.") from error
        if not _lists_text(index):
            raise FileDamaged(f"{folder / INDEX} does not list packed text; restore it, or prepare the corpus again.")
        if split not in index["splits"]:
            raise CorpusEmpty(f"{folder} has no split {split!r}; it has {', '.join(index['splits'])}.")
        summary, dtype = index["splits"][split], np.dtype(index["dtype"]).newbyteorder("<")
        shards = [_map(folder / shard["file"], shard["tokens"], dtype) for shard in summary["shards"]]
        return cls(shards, summary, index["end"], index.get("vocab"))

    def __repr__(self) -> str:
        return f"PackedTokens({len(self):,} tokens, {self.bytes:,} bytes, {self.documents:,} documents)"

    def __len__(self) -> int:
        return self._count

    @property
    def parts(self) -> list[PackedTokens]:
        """The sources, in order; itself alone if it is no mixture."""
        found, first = [], 0
        for source in self._summary.get("mixture", ()):
            found.append(self.part(first, source["tokens"], source))
            first += source["tokens"]
        return found or [self]

    def part(self, first: int, tokens: int, summary: dict[str, Any] | None = None) -> PackedTokens:
        """Some of the tokens, as tokens of their own; `bytes` and `documents` are those of the whole unless told otherwise."""
        part = PackedTokens(self._shards, summary or self._summary | {"mixture": ()}, self.end, self.vocab)
        part._first, part._count = self._first + first, tokens
        part.name = part._summary.get("name", self.name)
        return part

    def ends(self) -> np.ndarray:
        """The places of the end tokens, int64; found in one pass at first, 8 bytes a document."""
        if self._document_ends is None:
            found = [
                place + np.flatnonzero(self.window(place, min(SCANNED, len(self) - place)) == self.end)
                for place in range(0, len(self), SCANNED)
            ]
            self._document_ends = np.concatenate(found) if found else np.empty(0, dtype=np.int64)
        return self._document_ends

    def window(self, start: int, length: int) -> np.ndarray:
        """Tokens start .. start + length, int64 [length]. IndexError when the split does not hold them all, ClocheError when
        one is beyond the vocabulary."""
        if start < 0 or length < 0 or start + length > len(self):
            raise IndexError(f"tokens {start} to {start + length} of {len(self)}")
        start += self._first
        out = np.empty(length, dtype=np.int64)
        filled = 0
        while filled < length:
            shard = bisect_right(self._ends, start + filled)
            offset = start + filled - (self._ends[shard - 1] if shard else 0)
            part = self._shards[shard][offset : offset + length - filled]
            out[filled : filled + len(part)] = part
            filled += len(part)
        if self.vocab is not None and length and (largest := int(out.max())) >= self.vocab:
            raise FileDamaged(
                f"The packed text holds token {largest:,}, beyond its vocabulary of {self.vocab:,}; prepare the corpus again."
            )
        return out

    def validation_windows(
        self, length: int, byte_lengths: np.ndarray, limit: int | None = None, batch: int = 16
    ) -> Iterator[tuple[np.ndarray, int]]:
        """Batches (x, bytes): x int64 [at most batch, length + 1], and the number of UTF-8 bytes of x[:, 1:].

        Without `limit` every token of the split is predicted exactly once, the first one after an end token, so that the
        bytes sum to `self.bytes` and bits/byte = nats / ln 2 / bytes is exact; the rest after the last whole window
        is one shorter batch. With `limit`, only limit // length whole windows, evenly spread over the split, none
        overlapping another. `byte_lengths` is the tokenizer's own.
        """
        whole, rest = divmod(len(self), length)
        wanted = whole if limit is None else min(whole, max(1, limit // length))
        starts = [i * whole // wanted * length for i in range(wanted)]
        for first in range(0, wanted, batch):
            x = np.stack([self._after(start, length) for start in starts[first : first + batch]])
            yield x, int(byte_lengths[x[:, 1:]].sum())
        if rest and (limit is None or whole == 0):
            x = self._after(whole * length, rest)[None]
            yield x, int(byte_lengths[x[:, 1:]].sum())

    def _after(self, start: int, length: int) -> np.ndarray:
        """The window preceded by one token: the one before it, or an end token for the first window."""
        if start:
            return self.window(start - 1, length + 1)
        return np.concatenate([[self.end], self.window(0, length)])


def _map(path: Path, tokens: int, dtype: np.dtype) -> np.ndarray:
    try:
        size = path.stat().st_size
        if size != tokens * dtype.itemsize:
            raise FileDamaged(
                f"{path} has {size} bytes, not the {tokens * dtype.itemsize} that {INDEX} names; prepare the corpus again."
            )
        return np.memmap(path, dtype=dtype, mode="r")
    except OSError as error:
        raise FileUnreadable(f"{path} cannot be read ({error.strerror}); prepare the corpus again.") from error


def _lists_text(index: Any) -> bool:
    """Whether what was read of an index has the fields and types that were written."""
    if not isinstance(index, dict) or index.get("dtype") not in ("uint16", "uint32"):
        return False
    whole = isinstance(index.get("end"), int) and isinstance(index.get("vocab"), int | None)
    splits = index.get("splits")
    return whole and isinstance(splits, dict) and all(_is_split(each) for each in splits.values())


def _is_split(split: Any) -> bool:
    shards = split.get("shards") if isinstance(split, dict) else None
    return isinstance(shards, list) and all(
        isinstance(shard, dict) and isinstance(shard.get("file"), str) and isinstance(shard.get("tokens"), int)
        for shard in shards
    )
