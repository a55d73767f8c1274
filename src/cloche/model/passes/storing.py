"""Writes activations of many texts to disk, shard by shard in constant memory; resumes after a kill."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from cloche.errors import (
    ArgumentInvalid,
    ArgumentRange,
    CorpusEmpty,
    FolderForeign,
    NotFinite,
    OutOfMemory,
    ResumeRefused,
    SiteUnsuitable,
)
from cloche.files import remove_abandoned, sha256_of, writing_file
from cloche.model.passes.stored import (
    DTYPES,
    FORMAT,
    OWN,
    StoredActivations,
    check_shards,
    read_manifest,
    row_bytes,
    write_manifest,
)
from cloche.model.sites.checks import check_ids, row_shape
from cloche.model.sites.edits import Edit
from cloche.model.sites.vocabulary import Site

if TYPE_CHECKING:
    from cloche.model.network import Network

SHARD_BYTES = 1 << 28  # 256 MB: the memory used beside the pass itself
SPARE = 1 << 20  # room for headers and the manifest


def stored_bytes(net: Network, batches: Sequence[Any], save: Any, dtype: str) -> int:
    """The bytes of tensors that `Network.store` will write for these batches."""
    sites = _sites(net, save, dtype)
    return _rows(batches) * row_bytes(sites, dtype)


def store(
    net: Network,
    batches: Sequence[Any],
    save: Any,
    to: str | Path,
    dtype: str,
    edits: Iterable[Edit] | Edit,
    shard_bytes: int,
) -> StoredActivations:
    """See `Network.store`."""
    sites, edits = _sites(net, save, dtype), [edits] if isinstance(edits, Edit) else list(edits)
    if type(shard_bytes) is not int or shard_bytes < 1:
        raise ArgumentRange(f"shard_bytes={shard_bytes!r} must be a whole number of at least one.")
    rows, each, folder = _rows(batches), row_bytes(sites, dtype), Path(to)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "sites": sites,
        "dtype": dtype,
        "rows": rows,
        "bytes": rows * each,
        "model": net.spec.hash,
        "source": _source(net, batches, edits),
        "shards": [],
    }
    net.warn_beyond(max(torch.as_tensor(batch).shape[-1] for batch in batches))
    manifest = _continued(folder, manifest)
    done = sum(shard["rows"] for shard in manifest["shards"])
    _check_disk(folder, (rows - done) * each)
    start = sum(shard["batches"] for shard in manifest["shards"])
    for batches_in in _shards(batches, start, max(1, shard_bytes // each)):
        _write(net, batches, batches_in, folder, manifest, edits)
    return StoredActivations.open(folder)


def _sites(net: Network, save: Any, dtype: str) -> dict[str, list[int]]:
    """The shape of one row of every site to save, by its text."""
    if dtype not in DTYPES:
        raise ArgumentInvalid(f"dtype={dtype!r} must be one of {', '.join(DTYPES)}.")
    named = [site for what in ([save] if isinstance(save, str | Site) else save) for site in net.sites.resolve(what)]
    if not named:
        raise ArgumentRange("save= names no site; give at least one, such as net.sites.resid_post[0].")
    for site in named:
        if "key" in site.axes:
            raise SiteUnsuitable(
                f"store writes one row per token, and {site} has one per pair of tokens; save it with run."
            )
    return {str(site): row_shape(net.sites, site) for site in named}


def _rows(batches: Any) -> int:
    if not hasattr(batches, "__len__") or not hasattr(batches, "__getitem__"):
        raise ArgumentInvalid(
            f"store takes a list of batches of ids [batch, position] (anything with a length, so that bytes are known and a "
            f"kill can be resumed); got {type(batches).__name__}."
        )
    if len(batches) == 0:
        raise CorpusEmpty("store was given no batches: give at least one.")
    return sum(torch.as_tensor(batches[i]).numel() for i in range(len(batches)))


def _source(net: Network, batches: Sequence[Any], edits: list[Edit]) -> str:
    """sha256 of everything that determines the values: model, weights, ids and edits."""
    digest = hashlib.sha256(net.spec.hash.encode())

    def add(tensor: Tensor) -> None:
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{plain.dtype}{list(plain.shape)}".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().data)

    for _, parameter in net.named_parameters():
        add(parameter)
    for i in range(len(batches)):
        ids = check_ids(batches[i], net.spec.vocab, net.length, torch.device("cpu"))
        plan, inputs = net.plan((), edits, ids.to(net.embed.weight.device), None)
        add(ids)
    digest.update(str(plan).encode())
    for tensor in inputs:
        add(tensor)
    return digest.hexdigest()


def _continued(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest to continue from: that of an earlier call with the same arguments, else this one, after writing it."""
    remove_abandoned(folder)
    old = read_manifest(folder)
    if old is None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FolderForeign(f"{folder} already holds something else; give an empty or new folder for activations.")
        folder.mkdir(parents=True, exist_ok=True)
        write_manifest(folder, manifest)
        return manifest
    if (old["sites"], old["dtype"]) != (manifest["sites"], manifest["dtype"]):
        raise ResumeRefused(
            f"{folder} was begun with {_shown(old)}, and this call saves {_shown(manifest)}; give another folder, or the same "
            "sites as before."
        )
    if old["source"] != manifest["source"]:
        raise ResumeRefused(
            f"{folder} was begun with other weights, texts or edits than these; give another folder, or the same as before."
        )
    check_shards(folder, old)
    return old


def _shown(manifest: dict[str, Any]) -> str:
    return ", ".join(f"{site} {shape}" for site, shape in manifest["sites"].items()) + f" in {manifest['dtype']}"


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed and needed + SPARE > free:
        raise OutOfMemory(
            f"These activations need {needed / 1e9:,.2f} GB and the disk of {folder} has {free / 1e9:,.2f} GB free; save fewer "
            "sites or texts, or a smaller dtype."
        )


def _shards(batches: Sequence[Any], start: int, rows: int) -> Iterable[range]:
    """Ranges of batches, each of at most `rows` rows (or one batch)."""
    first, held = start, 0
    for i in range(start, len(batches)):
        count = torch.as_tensor(batches[i]).numel()
        if held and held + count > rows:
            yield range(first, i)
            first, held = i, 0
        held += count
    if first < len(batches):
        yield range(first, len(batches))


def _write(
    net: Network, batches: Sequence[Any], chosen: range, folder: Path, manifest: dict[str, Any], edits: list[Edit]
) -> None:
    """Run these batches and add their shard to the folder and its manifest."""
    rows = sum(torch.as_tensor(batches[i]).numel() for i in chosen)
    kinds: dict[str, torch.dtype] = dict.fromkeys(manifest["sites"], DTYPES[manifest["dtype"]]) | OWN
    shard = {name: torch.empty(rows, *manifest["sites"].get(name, []), dtype=kind) for name, kind in kinds.items()}
    at = 0
    for i in chosen:
        ids = check_ids(batches[i], net.spec.vocab, net.length, torch.device("cpu"))
        result = net.run(ids, save=list(manifest["sites"]), edits=edits, logits=False)
        end = at + ids.numel()
        shard["ids"][at:end] = ids.flatten()
        shard["position"][at:end] = torch.arange(ids.shape[1]).repeat(len(ids))
        for name in manifest["sites"]:
            shard[name][at:end] = result[name].flatten(0, 1)
            if not bool(shard[name][at:end].isfinite().all()):
                raise NotFinite(
                    f"{name} has values that {manifest['dtype']} cannot hold (batch {i}); use bfloat16 or float32, or look "
                    "whether the weights have diverged."
                )
        at = end
    name = f"shard-{len(manifest['shards']):05d}.safetensors"
    with writing_file(folder / name) as aside:
        save_file(shard, aside)
        digest = sha256_of(aside)
    size = (folder / name).stat().st_size
    entry = {"file": name, "rows": rows, "batches": len(chosen), "bytes": size, "sha256": digest}
    manifest["shards"] = [*manifest["shards"], entry]
    write_manifest(folder, manifest)
