"""Trained models against the activations and the texts their authors published."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from combinations import close
from safetensors.torch import load_file

import cloche
from cloche.decode import generate
from cloche.model import load_network, save_network

Shared = Callable[[str], Path]


def test_stories_continue_as_published(shared: Shared) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    folder = shared("weights/stories260K/hf")
    net, tokenizer = load_network(folder), tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.encode("Once upon a time").ids
    text = tokenizer.decode(generate(net, [ids], new=60).new[0])
    assert ("Once upon a time" + (text if text.startswith(",") else " " + text)).startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, "
        "she saw a big, red ball."
    )


def test_a_real_llama_saves_and_loads(shared: Shared, tmp_path: Path) -> None:
    folder = shared("weights/stories260K/hf")
    net = load_network(folder)
    save_network(net, tmp_path)
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in after)
    assert before.keys() - after.keys() <= {"lm_head.weight"}


def test_sortgpt_sorts_every_string(shared: Shared) -> None:
    """Six letters of ABC in, the same six in order out: all 729, through the cache and greedily."""
    net = load_network(shared("weights/sortgpt/hf"))
    inputs = torch.tensor(list(itertools.product(range(3), repeat=6)))
    made = torch.tensor(generate(net, inputs, new=5).new)
    # It has 11 positions: the sixth letter is read off the last of them.
    whole = net.run(torch.cat([inputs, made], 1)).logits.argmax(-1)[:, 5:]
    assert whole.shape == (729, 6)
    assert (whole == inputs.sort(dim=1).values).all(1).sum().item() == 729
    assert torch.equal(whole[:, :5], made)


def test_sortgpt_has_the_published_activations(shared: Shared) -> None:
    """The published tensors of one layer are those of the first."""
    golden = load_file(shared("weights/sortgpt/hf/t0_partials.safetensors"))
    net = load_network(shared("weights/sortgpt/hf"))
    result = net.run(golden["idx"].long(), save=list(net.sites))
    width = net.spec.width
    close(result["embed"], golden["x"])
    close(result["embed"], golden["tok_emb"] + golden["pos_emb"])
    same = {
        "attn_in[0]": "ln1",
        "attn_out[0]": "yProj",
        "resid_mid[0]": "attnResid",
        "mlp_in[0]": "ln2",
        "mlp_pre[0]": "fc",
        "mlp_act[0]": "gelu",
        "mlp_out[0]": "mlp",
        "resid_post[0]": "mlpResid",
        "pattern[0]": "attSm",
        "scores[0]": "att",
        "final_norm": "ln_f",
        "logits": "lm_head",
        **{f"resid_post[{layer}]": f"block{layer}" for layer in range(3)},
    }
    for site, name in same.items():
        close(result[site], golden[name])
    for i, name in enumerate("qkv"):
        value = result[f"{name}[0]"]
        close(value.transpose(1, 2), golden[name])
        close(value.flatten(2), golden["qkv"][..., i * width : (i + 1) * width])
    close(result["z[0]"].flatten(2), golden["y"])
    close(result.logits.softmax(-1), golden["probs"])
    assert (golden["att"] == -torch.inf).sum() == 3 * 3 * 55


SPARSE = "weights/relu2M/hf"


def test_a_sparse_llama_is_what_a_dense_forward_says(shared: Shared) -> None:
    oracle = pytest.importorskip("shifted_relu")
    folder = shared(SPARSE)
    config = json.loads((folder / "config.json").read_text())
    ids = torch.randint(3, 4096, (40,), generator=torch.Generator().manual_seed(0))
    expected = oracle.dense_logits(load_file(folder / "model.safetensors"), config, ids)
    result = load_network(folder).run(ids[None], save=["attn_in.all", "mlp_in.all", "mlp_act.all"])
    torch.testing.assert_close(result.logits[0].double(), expected, rtol=1e-4, atol=1e-4)
    for site in ("attn_in.all", "mlp_in.all"):
        assert (result[site] >= 0).all() and 0.5 < (result[site] == 0).float().mean() < 1
    assert (result["mlp_act.all"] == 0).float().mean() > 0.5


def test_a_sparse_llama_goes_out_under_its_own_names(shared: Shared, tmp_path: Path) -> None:
    folder = shared(SPARSE)
    net = load_network(folder)
    save_network(net, tmp_path)
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    config, made = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path))
    left_out = {name for name in config if name not in made}
    assert not [name for name in config.keys() - left_out if config[name] != made[name]]
    assert {"hidden_act_shift", "norm_output_relu_shift", "hidden_act", "model_type"} <= made.keys()
    del made["cloche"]
    (tmp_path / "config.json").write_text(json.dumps(made))
    assert load_network(tmp_path).spec == net.spec


def test_a_sparse_llama_tells_stories(shared: Shared) -> None:
    """Loss on stories it was made for; the same tokens in disorder are far less likely."""
    glass = cloche.load(shared(SPARSE))
    lines = shared("text/tinystories_sample_ascii.jsonl").read_text().splitlines()[:20]
    told = glass.generate("Once upon a time", new=60)
    assert told.startswith(", there was a little girl named Lily. She loved to play outside in the sunshine. One day,")
    loss = {"in order": 0.0, "in disorder": 0.0}
    count = 0
    for line in lines:
        ids = torch.tensor(glass.tokenizer.encode(json.loads(line)["text"]))[:512]
        order = torch.randperm(len(ids) - 1, generator=torch.Generator().manual_seed(0))
        disorder = torch.cat([ids[:1], ids[1:][order]])
        for name, row in (("in order", ids), ("in disorder", disorder)):
            logits = glass.run(row[None]).logits[0, :-1]
            loss[name] += float(torch.nn.functional.cross_entropy(logits, row[1:], reduction="sum"))
        count += len(ids) - 1
    assert 1.2 < loss["in order"] / count < 1.9  # nats a token
    assert loss["in disorder"] / count > 5
