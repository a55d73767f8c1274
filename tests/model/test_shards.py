"""Shards, half precision and memory: what is on disk goes straight to its place, in the dtype asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from combinations import close, lively, random_ids
from family_table import theirs
from safetensors.torch import load_file, save_file

from cloche.errors import ClocheError
from cloche.model import GLU, LM, Attention, Block, MoE, RoPE, Stack, load_network, save_network
from cloche.model.huggingface import shards

transformers = pytest.importorskip("transformers")
CASES = ["mistral", "gpt_neox", "gemma2", "mixtral", "gpt_oss", "phi3"]
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module", params=["bfloat16", "float16"])
def dtype(request) -> str:
    return request.param


def halved(case: str, dtype: str, folder: Path) -> Any:
    """transformers' model of a case, in half precision, written in many shards."""
    model = theirs(case).to(getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size="8KB")
    assert (folder / INDEX).is_file()
    return model


@pytest.mark.parametrize("case", CASES)
def test_half_precision_shards_widened_to_fp32(case: str, dtype: str, tmp_path: Path) -> None:
    halved(case, dtype, tmp_path)
    net = load_network(tmp_path)
    wide = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager")
    ids = random_ids(2, 19, net.spec.vocab)
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    with torch.no_grad():
        close(net(ids), wide.eval()(ids).logits)


@pytest.mark.parametrize("case", CASES)
def test_export_keeps_the_stored_dtype_bit_for_bit(case: str, dtype: str, tmp_path: Path) -> None:
    halved(case, dtype, tmp_path / "theirs")
    net = load_network(tmp_path / "theirs", dtype="auto")
    assert {p.dtype for p in net.parameters()} == {getattr(torch, dtype)}
    save_network(net, tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["dtype"] == dtype
    before = {}
    for file in (tmp_path / "theirs").glob("*.safetensors"):
        before |= load_file(file)
    after = load_file(tmp_path / "ours" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(before[n].dtype == after[n].dtype and torch.equal(before[n], after[n]) for n in before)
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert opened.dtype == getattr(torch, dtype)


def test_a_network_in_half_precision_runs(dtype: str, tmp_path: Path) -> None:
    """Its logits round as transformers' do: to the precision, not to fp32's."""
    model, net = halved("mistral", dtype, tmp_path), load_network(tmp_path, dtype)
    ids = random_ids(2, 9, net.spec.vocab)
    with torch.no_grad():
        wide, ours, other = (m.float() for m in (load_network(tmp_path)(ids), net(ids), model(ids).logits))
    assert (ours - wide).abs().max() < 3 * (other - wide).abs().max()
    assert net.run(ids, save="z[0]")["z[0]"].dtype == getattr(torch, dtype)


def test_fp32_weights_read_as_half_are_rounded_once(dtype: str, tmp_path: Path) -> None:
    theirs("qwen2").save_pretrained(tmp_path)
    wide, half = load_network(tmp_path), load_network(tmp_path, dtype)
    for (name, p), q in zip(wide.named_parameters(), half.parameters(), strict=True):
        assert torch.equal(p.to(q.dtype), q), name


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    theirs("qwen2, some windows").save_pretrained(tmp_path)
    net = load_network(tmp_path)
    assert net.unembed.weight is net.embed.weight and not net.embed.weight.is_meta


# Memory ---------------------------------------------------------------------------------------------------------------


def peak(work: Any) -> int:
    """The most bytes of tensors that were allocated at one time during a call."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as record:
        kept = work()
    del kept
    now = most = 0
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["llama", "experts", "gpt2"])
def test_loading_needs_little_more_than_the_weights(
    kind: str, stored: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joined, stacked and transposed tensors alike: never a second copy (read whole and then moved, it was 2.0 times)."""
    monkeypatch.setattr(shards, "STAGE", 1 << 16)
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=300, n_embd=128, n_layer=4, n_head=4, n_positions=64)
        transformers.GPT2LMHeadModel(config).to(stored).save_pretrained(tmp_path)
    else:
        glu = GLU(hidden=200)
        block = Block(Attention(heads=4, position=RoPE()), MoE(4, 2, glu) if kind == "experts" else glu)
        save_network(LM(300, 128, Stack(4, block), tied=True).build(0).to(stored), tmp_path)
    net = load_network(tmp_path)
    weights = sum(p.numel() * p.element_size() for p in net.parameters())
    assert weights <= peak(lambda: load_network(tmp_path, check_sites=False)) <= 1.1 * weights
    assert peak(lambda: save_network(net, tmp_path / "again")) <= 0.1 * weights


def test_numbers_read_in_many_stages_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    halved("gpt_oss", "bfloat16", tmp_path)
    whole = load_network(tmp_path)
    monkeypatch.setattr(shards, "STAGE", 64)
    for (name, p), q in zip(whole.named_parameters(), load_network(tmp_path).parameters(), strict=True):
        assert torch.equal(p, q), name


# What is wrong with a folder of shards ----------------------------------------------------------------------------------


def spoilt_index(change: Any) -> Any:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / INDEX).read_text())
        change(content["weight_map"])
        (folder / INDEX).write_text(json.dumps(content))

    return spoil


def rewritten(change: Any) -> Any:
    def spoil(folder: Path) -> None:
        first = min(folder.glob("*.safetensors"))
        save_file(change(load_file(first), folder), first)

    return spoil


def _another_shards(state: dict[str, torch.Tensor], folder: Path) -> dict[str, torch.Tensor]:
    return state | dict([next(iter(load_file(max(folder.glob("*.safetensors"))).items()))])


def _wider(state: dict[str, torch.Tensor], folder: Path) -> dict[str, torch.Tensor]:
    return {name: torch.cat([t, t]) for name, t in state.items()}


def _mixed(state: dict[str, torch.Tensor], folder: Path) -> dict[str, torch.Tensor]:
    return {name: t.bfloat16() for name, t in state.items()}


def _huge(state: dict[str, torch.Tensor], folder: Path) -> dict[str, torch.Tensor]:
    return {name: t + 1e6 for name, t in state.items()}


def _copied(folder: Path) -> None:
    save_file({"stray": torch.ones(1)}, folder / "model.safetensors")


SPOILT: dict[str, tuple[Any, str, str]] = {
    "a shard missing": (
        lambda f: max(f.glob("*.safetensors")).unlink(),
        "float32",
        r"is missing, and model\.safetensors\.index\.json says that it holds \d+ tensors",
    ),
    "a tensor in two shards": (
        rewritten(_another_shards),
        "float32",
        r"tensor '.*' is in .* and in .*only one can count",
    ),
    "a tensor where the index does not say": (
        spoilt_index(lambda m: m.update({min(m, key=m.__getitem__): max(m.values())})),
        "float32",
        "and it does not; restore the shards",
    ),
    "a tensor the index alone knows": (
        spoilt_index(lambda m: m.update({"model.extra": max(m.values())})),
        "float32",
        r"holds the tensor 'model\.extra', and it does not",
    ),
    "another shape": (rewritten(_wider), "float32", r"has shape \[.*\], and the config asks for \["),
    "shards beside a whole file": (_copied, "float32", "holds both model.safetensors and shards"),
    "an unknown field": (
        lambda f: (f / "config.json").write_text(
            json.dumps(json.loads((f / "config.json").read_text()) | {"mup_scale": 2})
        ),
        "float32",
        r"the field 'mup_scale' \(2\) is not understood",
    ),
    "two dtypes, as stored": (rewritten(_mixed), "auto", "stores weights in bfloat16 and float32; name one"),
    "beyond float16": (rewritten(_huge), "float16", r"numbers beyond what float16 reaches"),
    "no such dtype": (lambda f: None, "int8", r"dtype='int8' is none of"),
}


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    theirs("mistral").save_pretrained(folder, max_shard_size="8KB")
    return folder


@pytest.mark.parametrize("case", SPOILT)
def test_spoilt_shards_are_one_sentence(case: str, sharded: Path, tmp_path: Path) -> None:
    spoil, dtype, sentence = SPOILT[case]
    folder = tmp_path / "model"
    shutil.copytree(sharded, folder)
    load_network(folder)
    spoil(folder)
    with pytest.raises(ClocheError, match=sentence) as caught:
        load_network(folder, dtype)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_our_own_names_in_half_precision(tmp_path: Path) -> None:
    """A tree that no family describes."""
    block = Block(Attention(heads=2), GLU("relu2", hidden=9))
    net = lively(LM(11, 8, Stack(2, block))).to(torch.bfloat16)
    save_network(net, tmp_path)
    back = load_network(tmp_path, torch.bfloat16)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), back.parameters(), strict=True))
