"""Activations on disk: the values of single runs, exact bytes, exact resume, shuffled reading."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from combinations import VOCAB, lively, random_ids
from safetensors.torch import load_file, save_file

from cloche.errors import ClocheError
from cloche.model import GLU, LM, Attention, Block, Network, RoPE, Stack, StoredActivations
from cloche.model.passes import stored, storing

WIDTH, ROW = 10, 10 * 2 + 16 * 2 + 8  # bytes of a row in bf16: resid_post[1], z[0], its token and position
SAVE = ["resid_post[1]", "z[0]"]


def small(seed: int = 0, width: int = WIDTH) -> Network:
    attention = Attention(heads=4, kv_heads=2, head_size=4, position=RoPE(theta=30))
    return lively(LM(VOCAB, width, Stack(3, Block(mix=attention, map=GLU(hidden=9)))), seed)


@pytest.fixture(scope="module")
def net() -> Network:
    return small()


@pytest.fixture
def batches() -> list[torch.Tensor]:
    return [random_ids(2 + i % 2, 5 + i, seed=i) for i in range(7)]


def rows_of(net: Network, batches: list[torch.Tensor], site: str, **options: Any) -> torch.Tensor:
    return torch.cat([net.run(ids, save=site, **options)[site].flatten(0, 1) for ids in batches])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_row_is_that_of_a_run(net: Network, batches: list[torch.Tensor], tmp_path: Path, dtype: str) -> None:
    acts = net.store(batches, save=SAVE, to=tmp_path / "a", dtype=dtype, shard_bytes=2000)
    assert len(acts.manifest["shards"]) > 2 and acts.dtype == dtype
    assert acts.sites == {"resid_post[1]": [WIDTH], "z[0]": [4, 4]}
    for site in SAVE:
        truth = rows_of(net, batches, site)
        read = torch.cat(list(acts.batches(site, size=7)))
        assert read.dtype == torch.float32 and torch.equal(read, truth.to(getattr(torch, dtype)).float())
    ids, position = map(torch.cat, zip(*acts.batches(["ids", "position"], size=11), strict=True))
    assert torch.equal(ids, torch.cat([b.flatten() for b in batches])) and len(acts) == len(ids)
    assert torch.equal(position, torch.cat([torch.arange(b.shape[1]).repeat(len(b)) for b in batches]))
    acts.verify()


def test_bytes_are_known_before(net: Network, batches: list[torch.Tensor], tmp_path: Path) -> None:
    rows = sum(b.numel() for b in batches)
    assert net.stored_bytes(batches, SAVE) == rows * ROW
    net.store(batches, save=SAVE, to=tmp_path / "a")
    (shard,) = (tmp_path / "a").glob("*.safetensors")
    assert sum(t.numel() * t.itemsize for t in load_file(shard).values()) == rows * ROW
    assert rows * ROW < shard.stat().st_size < rows * ROW + 1000
    assert net.stored_bytes(batches, "z[0].head(1)", dtype="float32") == rows * (4 * 4 + 8)


def test_the_pass_stops_after_the_last_layer_saved(net: Network, tmp_path: Path) -> None:
    calls: list[int] = []
    handles = [block.register_forward_hook(lambda *_, i=i: calls.append(i)) for i, block in enumerate(net.layers)]
    try:
        net.store([random_ids(1, 4)], save="mlp_act[1]", to=tmp_path / "a")
        assert calls == [0, 1]
    finally:
        for handle in handles:
            handle.remove()


def test_edits_are_in_the_values(net: Network, batches: list[torch.Tensor], tmp_path: Path) -> None:
    edit = net.sites.resid_post[0].add(torch.ones(WIDTH)).at("last")
    acts = net.store(batches, save="resid_post[1]", to=tmp_path / "a", dtype="float32", edits=edit)
    truth = rows_of(net, batches, "resid_post[1]", edits=edit)
    assert torch.equal(torch.cat(list(acts.batches("resid_post[1]"))), truth)


@pytest.mark.parametrize("shards_before", [0, 1, 3])
def test_a_kill_is_resumed_to_the_same_bytes(
    net: Network, batches: list[torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards_before: int
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    net.store(batches, save=SAVE, to=whole, shard_bytes=1000)
    written: list[Path] = []
    real = storing.write_manifest

    def dies(folder: Path, manifest: dict[str, Any]) -> None:
        if len(manifest["shards"]) > shards_before:  # the shard lies there, the manifest does not know it yet
            raise KeyboardInterrupt
        real(folder, manifest)

    monkeypatch.setattr(storing, "write_manifest", dies)
    with pytest.raises(KeyboardInterrupt):
        net.store(batches, save=SAVE, to=killed, shard_bytes=1000)
    monkeypatch.setattr(storing, "write_manifest", real)
    with pytest.raises(ClocheError, match="is half written"):
        StoredActivations.open(killed)
    times = {path: path.stat().st_mtime_ns for path in sorted(killed.glob("shard-*"))[:shards_before]}

    def saves(tensors: dict[str, torch.Tensor], path: Path) -> None:
        written.append(path)
        save_file(tensors, path)

    monkeypatch.setattr(storing, "save_file", saves)
    acts = net.store(batches, save=SAVE, to=killed, shard_bytes=1000)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert len(written) == len(acts.manifest["shards"]) - shards_before
    assert contents(killed) == contents(whole)
    written.clear()
    net.store(batches, save=SAVE, to=killed, shard_bytes=1000)
    assert not written


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_shuffled_reading(net: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [random_ids(4, 50, seed=i) for i in range(10)]
    acts = net.store(batches, save="embed", to=tmp_path / "a", shard_bytes=10_000)
    monkeypatch.setattr(stored, "BLOCK", 16)
    for buffer in (16, 100, 10_000):
        parts = list(acts.batches(["embed", "ids", "position"], size=64, seed=3, buffer=buffer))
        assert [len(p[0]) for p in parts] == [64] * 31 + [2000 - 31 * 64]
        values, ids, position = (torch.cat(column) for column in zip(*parts, strict=True))
        assert torch.equal(values, net.embed.weight[ids].bfloat16().float())  # rows stay together
        in_order = torch.cat([b.flatten() for b in batches])
        assert torch.equal(ids.sort().values, in_order.sort().values) and not torch.equal(ids, in_order)
        assert torch.equal(position.bincount(), torch.full((50,), 40))
        again = torch.cat(list(acts.batches("ids", size=64, seed=3, buffer=buffer)))
        other = torch.cat(list(acts.batches("ids", size=64, seed=4, buffer=buffer)))
        assert torch.equal(again, ids) and not torch.equal(other, ids)


def test_reading_holds_no_more_than_its_buffer(net: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acts = net.store([random_ids(4, 50, seed=i) for i in range(10)], save="embed", to=tmp_path / "a")
    monkeypatch.setattr(stored, "BLOCK", 16)
    held: list[int] = []
    pools = acts._pools

    def watched(*arguments: Any) -> Any:
        for pool in pools(*arguments):
            held.append(len(pool[0]))
            yield pool

    monkeypatch.setattr(acts, "_pools", watched)
    assert sum(map(len, acts.batches("embed", size=32, seed=0, buffer=100))) == 2000
    assert max(held) <= 100 and len(held) > 20


IDS = [random_ids(2, 6)]


def test_misuse(net: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(sentence: str, net: Network = net, batches: Any = IDS, to: str = "new", **options: Any) -> None:
        options.setdefault("save", SAVE)
        with pytest.raises(ClocheError, match=sentence) as caught:
            net.store(batches, to=tmp_path / to, **options)
        assert "\n" not in str(caught.value) and str(caught.value).endswith((".", "?"))
        assert not (tmp_path / "new").exists()

    refused("dtype='int8' must be one of", dtype="int8")
    refused("names no site", save=[])
    refused("did you mean 'resid_post'", save="resid_pots[0]")
    refused(r"pattern\[0\] has one per pair", save="pattern[0]")
    refused("got generator", batches=(ids for ids in IDS))
    refused("no batches", batches=[])
    refused("outside the vocabulary", batches=[[[VOCAB]]])
    refused("never fire", edits=net.sites.z[0].zero().at(17))
    refused("shard_bytes=0 must", shard_bytes=0)

    net.store(IDS, save=SAVE, to=tmp_path / "a")
    refused(r"begun with resid_post\[1\] \[10\], z\[0\] \[4, 4\] in bfloat16, and this call", to="a", save="z[0]")
    refused("in bfloat16, and this call saves", to="a", dtype="float32")
    refused(r"saves resid_post\[1\] \[12\]", to="a", net=small(width=12))
    refused("other weights, texts or edits", to="a", net=small(seed=1))
    refused("other weights, texts or edits", to="a", batches=[IDS[0].flip(1)])
    refused("other weights, texts or edits", to="a", edits=net.sites.embed.scale(2.0))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    refused("already holds something else", to="other")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with pytest.raises(ClocheError, match=r"need 0\.00 GB and the disk of"):
        net.store(IDS, save=SAVE, to=tmp_path / "b")


def test_what_the_dtype_cannot_hold(net: Network, tmp_path: Path) -> None:
    loud = net.sites.embed.scale(1e6)
    with pytest.raises(ClocheError, match="embed has values that float16 cannot hold"):
        net.store(IDS, save="embed", to=tmp_path / "a", dtype="float16", edits=loud)
    net.store(IDS, save="embed", to=tmp_path / "b", edits=loud)


def test_misuse_of_what_was_written(net: Network, tmp_path: Path) -> None:
    acts = net.store(IDS, save=SAVE, to=tmp_path / "a")
    with pytest.raises(ClocheError, match=r"holds no 'z\[1\]'; it has resid_post\[1\], z\[0\], ids, position"):
        acts.batches("z[1]")
    with pytest.raises(ClocheError, match="size=0"):
        acts.batches("z[0]", size=0)
    with pytest.raises(ClocheError, match="holds no activations"):
        StoredActivations.open(tmp_path)
    (shard,) = (tmp_path / "a").glob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(ClocheError, match="is damaged"):
        StoredActivations.open(tmp_path / "a").verify()
    shard.write_bytes(bytes(data[:-9]))
    with pytest.raises(ClocheError, match="missing or cut short"):
        StoredActivations.open(tmp_path / "a")
    manifest = tmp_path / "a" / "activations.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 9}))
    with pytest.raises(ClocheError, match="not of format 1"):
        StoredActivations.open(tmp_path / "a")
    manifest.write_text("{")
    with pytest.raises(ClocheError, match="cannot be read"):
        StoredActivations.open(tmp_path / "a")
