"""Activations on disk: one row per token, safetensors shards and a manifest, read in order or shuffled in bounded
memory."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cloche.errors import ArgumentRange, FileDamaged, FileMissing, FileUnsupported, SiteNotSaved
from cloche.files import sha256_of, to_json, write_atomically
from cloche.model.sites.dialects import in_our_words

MANIFEST = "activations.json"
FORMAT = 1
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
OWN = {
    "ids": torch.int32,
    "position": torch.int32,
}  # stored beside the sites: each row's token and position
BLOCK = 256  # rows read together when shuffling, with one seek


class StoredActivations:
    """Activations that `Network.store` wrote: a row per token for each saved site, in the order of the texts.

    sites: text of each site -> shape of one row. rows: tokens. dtype: as stored ("bfloat16", ...); reading gives fp32.
    manifest: the contents of activations.json.

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> net = LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> from cloche.model import StoredActivations
    >>> _ = net.store([[[1, 2, 3]], [[4, 5, 6]]], save=["resid_post[1]"], to="activations")
    >>> kept = StoredActivations.open("activations")
    >>> kept.rows, [rows.shape for rows in kept.batches("resid_post[1]", size=4)]
    (6, [torch.Size([4, 32]), torch.Size([2, 32])])
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self.sites: dict[str, list[int]] = manifest["sites"]
        self.rows: int = manifest["rows"]
        self.dtype: str = manifest["dtype"]

    @classmethod
    def open(cls, folder: str | Path) -> StoredActivations:
        """Opens a finished folder. Raises ClocheError if there is none, or an unfinished one."""
        folder = Path(folder)
        manifest = read_manifest(folder)
        if manifest is None:
            raise FileMissing(f"{folder} holds no activations: it has no {MANIFEST}; net.store(..., to=) writes one.")
        done = sum(shard["rows"] for shard in manifest["shards"])
        if done < manifest["rows"]:
            raise FileDamaged(
                f"{folder} is half written ({done:,} of {manifest['rows']:,} rows); run the same call again to finish it."
            )
        check_shards(folder, manifest)
        return cls(folder, manifest)

    def __len__(self) -> int:
        return self.rows

    def verify(self) -> None:
        """Raises ClocheError, naming the first shard whose bytes are not those that were written."""
        for shard in self.manifest["shards"]:
            if sha256_of(self.folder / shard["file"]) != shard["sha256"]:
                raise FileDamaged(
                    f"{self.folder / shard['file']} is damaged: its sha256 is not the manifest's; delete the file and run the "
                    "same call again."
                )

    def batches(self, what: Any, size: int = 4096, seed: int | None = None, buffer: int = 65_536) -> Iterator[Any]:
        """Yields every row once, in fp32 tensors [size, ...] (the last may be shorter); "ids" and "position" as
        int64.

        what: a site or its text, "ids" or "position"; a list of them gives tuples of the same rows. seed: None reads in
        order; a number shuffles reproducibly. Shuffling reads short runs of rows from random places and mixes
        `buffer` rows at a time, which bounds its memory.
        """
        if any(type(n) is not int or n < 1 for n in (size, buffer)):
            raise ArgumentRange(f"size={size!r} and buffer={buffer!r} must be whole numbers of at least one.")
        known = {site.partition("[")[0] for site in self.sites}
        names = [in_our_words(str(w), known) for w in (what if isinstance(what, list) else [what])]
        for name in names:
            if name not in self.sites and name not in OWN:
                raise SiteNotSaved(f"{self.folder} holds no {name!r}; it has {', '.join([*self.sites, *OWN])}.")
        return self._batches(names, isinstance(what, list), size, seed, max(size, buffer))

    def _batches(self, names: list[str], several: bool, size: int, seed: int | None, buffer: int) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(seed or 0)
        held: list[Tensor] = []
        for pool in self._pools(names, seed, buffer):
            if seed is not None:
                order = torch.randperm(len(pool[0]), generator=generator)
                pool = [tensor[order] for tensor in pool]
            held = [torch.cat(pair) for pair in zip(held, pool, strict=True)] if held else pool
            whole = len(held[0]) // size * size
            for start in range(0, whole, size):
                yield _given([tensor[start : start + size] for tensor in held], names, several)
            held = [tensor[whole:] for tensor in held]
        if held and len(held[0]):
            yield _given(held, names, several)

    def _pools(self, names: list[str], seed: int | None, buffer: int) -> Iterator[list[Tensor]]:
        """About `buffer` rows at a time, made of blocks; a shard is open only while a block of it is read."""
        blocks = [
            (shard["file"], start, min(start + BLOCK, shard["rows"]))
            for shard in self.manifest["shards"]
            for start in range(0, shard["rows"], BLOCK)
        ]
        if seed is not None:
            random.Random(seed).shuffle(blocks)
        count = max(1, buffer // BLOCK)
        for first in range(0, len(blocks), count):
            read = [self._block(*block, names) for block in blocks[first : first + count]]
            yield [torch.cat(tensors) for tensors in zip(*read, strict=True)]

    def _block(self, file: str, start: int, end: int, names: list[str]) -> list[Tensor]:
        try:
            with safe_open(self.folder / file, framework="pt") as shard:
                return [shard.get_slice(name)[start:end] for name in names]
        except (OSError, SafetensorError) as error:
            raise FileDamaged(f"{self.folder / file} cannot be read ({error}); run the same call again.") from None


def _given(tensors: list[Tensor], names: list[str], several: bool) -> Any:
    out = [tensor.long() if name in OWN else tensor.float() for tensor, name in zip(tensors, names, strict=True)]
    return tuple(out) if several else out[0]


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """activations.json of a folder; None if there is none."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise FileDamaged(f"{path} cannot be read ({error}); delete the folder and store again.") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise FileUnsupported(f"{path} is not of format {FORMAT}; read it with the version that wrote it.")
    return cast(dict[str, Any], manifest)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Replace activations.json atomically."""
    write_atomically(folder / MANIFEST, to_json(manifest, indent=1))


def check_shards(folder: Path, manifest: dict[str, Any]) -> None:
    """Raise if a shard in the manifest is missing or of another size."""
    for shard in manifest["shards"]:
        path = folder / shard["file"]
        if not path.is_file() or path.stat().st_size != shard["bytes"]:
            raise FileDamaged(f"{path} is missing or cut short; delete {folder / MANIFEST} and store again.")


def row_bytes(sites: dict[str, list[int]], dtype: str) -> int:
    """Bytes of one row: its values at every site, its token and its position."""
    values = sum(math.prod(shape) for shape in sites.values())
    return values * DTYPES[dtype].itemsize + sum(kind.itemsize for kind in OWN.values())
