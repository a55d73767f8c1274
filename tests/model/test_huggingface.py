"""Checkpoints in and out, with transformers as the oracle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from combinations import close, random_ids
from family_table import theirs
from safetensors.torch import load_file, save_file

from cloche.errors import ClocheError
from cloche.model import (
    GLU,
    LM,
    MLP,
    Attention,
    Block,
    Causal,
    LayerNorm,
    RMSNorm,
    RoPE,
    Stack,
    Unembed,
    Window,
    load_network,
    save_network,
)
from cloche.model.huggingface import describe

transformers = pytest.importorskip("transformers")


def test_our_own_llama_opens_in_transformers(tmp_path: Path) -> None:
    """A model born here, its implied sizes left implied."""
    attention = Attention(heads=4, kv_heads=2, position=RoPE(theta=500))
    net = LM(41, 16, Stack(2, Block(mix=attention, map=GLU())), tied=True).build(seed=3)
    save_network(net, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "llama" and config["cloche"] == net.spec.to_dict()
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = random_ids(2, 30, 41)
    with torch.no_grad():
        close(opened(ids).logits, net(ids))


LLAMA_BLOCK = Block(mix=Attention(heads=4, position=RoPE()), map=GLU(hidden=9))
NO_FAMILY = {
    "window, not causal": Block(mix=Attention(heads=4, position=RoPE(), mask=Window(3)), map=GLU(hidden=9)),
    "window on the left": Block(
        mix=Attention(heads=4, position=RoPE(), mask=Window(3) & Causal()), map=GLU("relu2", hidden=9)
    ),
    "normed queries": Block(mix=Attention(heads=4, position=RoPE(), qk_norm=LayerNorm()), map=GLU(hidden=9)),
    "bias on one side": Block(mix=Attention(heads=4, position=RoPE(), out_bias=True), map=GLU(hidden=9)),
    "no position": Block(mix=Attention(heads=4), map=GLU(hidden=9)),
    "ungated": Block(mix=Attention(heads=4, position=RoPE()), map=MLP(hidden=9)),
    "squared relu": Block(mix=Attention(heads=4, position=RoPE()), map=GLU("relu2", hidden=9)),
    "biased map under a window": Block(
        mix=Attention(heads=4, position=RoPE(), mask=Causal() & Window(3)), map=GLU(hidden=9, bias=True)
    ),
    "two norms": Block(mix=Attention(heads=4, position=RoPE()), map=GLU(hidden=9), norm=RMSNorm(1e-3)),
    "two blocks": (LLAMA_BLOCK, Block(mix=Attention(heads=2), map=GLU(hidden=9))),
}


@pytest.mark.parametrize("name", NO_FAMILY)
def test_what_no_family_describes_keeps_our_own_names(name: str, tmp_path: Path) -> None:
    """Nothing is written as a Llama that a Llama would compute otherwise."""
    net = LM(31, 16, Stack(2, NO_FAMILY[name])).build()
    save_network(net, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "cloche"
    assert load_file(tmp_path / "model.safetensors").keys() == dict(net.named_parameters()).keys()
    back, ids = load_network(tmp_path), random_ids(1, 6, 31)
    assert back.spec == net.spec and torch.equal(back(ids), net(ids))


def test_a_biased_head_is_no_llama(tmp_path: Path) -> None:
    net = LM(31, 16, Stack(1, LLAMA_BLOCK), head=Unembed(bias=True)).build()
    assert describe(net.spec)[1] is None and describe(LM(31, 16, Stack(1, LLAMA_BLOCK)))[1] is not None


LEFT_OUT = {
    "llama, keys for every head": (
        "rms_norm_eps",
        "hidden_act",
        "tie_word_embeddings",
        "rope_parameters",
        "num_key_value_heads",
        "head_dim",
    ),
    "gpt2": ("layer_norm_epsilon", "activation_function", "n_inner", "tie_word_embeddings"),
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_what_a_config_leaves_out_is_what_transformers_takes(kind: str, tmp_path: Path) -> None:
    theirs(kind).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in LEFT_OUT[kind]}))
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        opened.get_input_embeddings().weight.mul_(0.05)  # so small that the norms' epsilon counts
        net = load_network(tmp_path)
        net.embed.weight.mul_(0.05)
        ids = random_ids(2, 9, 53)
        close(net(ids), opened(ids).logits)


def test_names_without_the_trunks_prefix_and_derived_tensors(tmp_path: Path) -> None:
    """OpenAI's own GPT-2 files: no `transformer.` before the names, causal masks stored beside the weights."""
    model = theirs("gpt2")
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    old = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
    old |= {f"h.{i}.attn.bias": torch.ones(1, 1, 40, 40).tril() for i in range(3)}
    save_file(old, tmp_path / "model.safetensors")
    ids = random_ids(1, 9, 53)
    with torch.no_grad():
        close(load_network(tmp_path)(ids), model(ids).logits)


def test_a_tied_models_head_may_be_repeated_and_must_be_the_same(tmp_path: Path) -> None:
    theirs("llama, tied").save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    ids = random_ids(1, 9, 53)
    logits = load_network(tmp_path)(ids)
    repeated = state | {"lm_head.weight": state["model.embed_tokens.weight"].clone()}
    save_file(repeated, tmp_path / "model.safetensors")
    assert torch.equal(load_network(tmp_path)(ids), logits)
    repeated["lm_head.weight"][-1, -1] += 1e-6
    save_file(repeated, tmp_path / "model.safetensors")
    with pytest.raises(ClocheError, match=r"lm_head\.weight is not the embedding's matrix, and the config says"):
        load_network(tmp_path)


# What is wrong with a folder: how to make it so, and what the sentence must say --------------------------------------


def _config(**changes: Any):
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        for key, value in changes.items():
            config.pop(key, None) if value is ... else config.__setitem__(key, value)
        (folder / "config.json").write_text(json.dumps(config))

    return spoil


def _tensors(change):
    def spoil(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        save_file({name: t.contiguous() for name, t in change(state).items()}, folder / "model.safetensors")

    return spoil


def _write(name: str, data: bytes):
    return lambda folder: (folder / name).write_bytes(data)


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


Q = "model.layers.1.self_attn.q_proj.weight"
SPOILT = {
    "unknown field": (_config(sliding_window=16), r"config\.json: sliding_window = 16 is not supported here"),
    "quantised": (_config(quantization_config={"bits": 4}), r"quantization_config = .* is not supported"),
    "scaled positions": (
        _config(rope_parameters={"rope_type": "llama3", "rope_theta": 1e4}),
        r"rope_type = 'llama3' needs the field 'factor'",
    ),
    "old scaling": (_config(rope_scaling={"type": "spiral", "factor": 2.0}), "rope_type = 'spiral'"),
    "activation": (_config(hidden_act="mish"), r"config\.json: hidden_act = 'mish' is not supported"),
    "another family": (_config(model_type="mamba"), "'mamba' is not one cloche reads; it reads gemma2, "),
    "no family": (_config(model_type=...), "model_type None"),
    "missing field": (_config(hidden_size=...), r"config\.json: the field 'hidden_size' is missing"),
    "field of another type": (
        _config(num_hidden_layers="3"),
        r"config\.json: num_hidden_layers = '3' must be a whole number",
    ),
    "number of another type": (_config(rms_norm_eps=None), r"config\.json: "),
    "flag of another type": (_config(attention_bias="yes"), "attention_bias = 'yes' must be true or false"),
    "heads that do not divide": (_config(num_key_value_heads=3), r"config\.json: .*multiple of kv_heads"),
    "another size": (_config(intermediate_size=41), "has shape"),
    "tree of another part": (_config(cloche={"part": "RMSNorm"}), "must be a LM, and RMSNorm is not one"),
    "tree of an unknown part": (_config(cloche={"part": "Llm"}), r"config\.json: cloche\].*'Llm'.*'LM'"),
    "no JSON": (_write("config.json", b"{"), r"config\.json is not JSON"),
    "no UTF-8": (_write("config.json", b"\xff\xfe\x00"), r"config\.json is not JSON"),
    "a list": (_write("config.json", b"[]"), "must hold a JSON object"),
    "no config": (lambda f: (f / "config.json").unlink(), r"holds no config\.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors is missing"),
    "cut short": (_cut, "damaged or cut short"),
    "empty file": (_write("model.safetensors", b""), "damaged or cut short"),
    "not safetensors": (_write("model.safetensors", b"PK\x03\x04" * 100), "damaged or cut short"),
    "missing tensor": (_tensors(lambda s: {k: v for k, v in s.items() if k != Q}), f"lacks the tensor '{Q}'"),
    "unknown tensor": (
        _tensors(lambda s: s | {"model.layers.0.self_attn.q_norm.weight": torch.ones(6)}),
        r"holds a tensor 'model\.layers\.0\.self_attn\.q_norm\.weight' that its config does not explain",
    ),
    "one layer too many": (_config(num_hidden_layers=2), "that its config does not explain"),
    "one layer too few": (_config(num_hidden_layers=4), "lacks the tensor 'model.layers.3"),
    "whole numbers": (
        _tensors(lambda s: s | {Q: s[Q].to(torch.int8)}),
        "q_proj.weight holds I8, not floating-point weights",
    ),
    "index without a map": (_write("model.safetensors.index.json", b"{}"), "must hold a weight_map"),
    "index no JSON": (_write("model.safetensors.index.json", b"{"), r"index\.json is not JSON"),
    "index leaving the folder": (
        _write("model.safetensors.index.json", b'{"weight_map": {"a": "../model.safetensors"}}'),
        "must hold a weight_map",
    ),
    "shard missing": (
        _write("model.safetensors.index.json", b'{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'),
        r"model-00001-of-00002\.safetensors is missing",
    ),
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    theirs("llama").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_folder_is_one_sentence(case: str, llama: Path, tmp_path: Path) -> None:
    spoil, sentence = SPOILT[case]
    folder = tmp_path / "model"
    shutil.copytree(llama, folder)
    load_network(folder)
    spoil(folder)
    with pytest.raises(ClocheError, match=sentence) as caught:
        load_network(folder)
    assert "\n" not in str(caught.value) and str(caught.value).endswith((".", "?"))


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(ClocheError, match=r"holds no config\.json"):
        load_network(tmp_path / "nowhere")
