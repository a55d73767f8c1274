"""Every family beside transformers: logits, gradients, padding, generation, and export without the loss of a bit."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from combinations import close, random_ids
from family_table import FAMILIES, scaled, theirs
from safetensors.torch import load_file

from cloche.decode import generate
from cloche.errors import ClocheError
from cloche.model import Network, load_network, save_network
from cloche.model.huggingface.families.family import families

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory) -> Iterator[tuple[Any, Network, Path]]:
    folder = tmp_path_factory.mktemp("theirs")
    model = theirs(request.param)
    model.save_pretrained(folder)
    return model, load_network(folder), folder


def test_logits(pair) -> None:
    model, net, _ = pair
    for length in (7, 30):
        ids = random_ids(2, length, net.spec.vocab)
        with torch.no_grad():
            close(net(ids), model(ids).logits)


def test_gradients(pair, tmp_path: Path) -> None:
    """Written as weights are, so that both carry the names of the files."""
    model, net, folder = pair
    ids = random_ids(2, 12, net.spec.vocab)
    for logits in (model(ids, use_cache=False).logits, net(ids)):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    slopes = copy.deepcopy(net)
    with torch.no_grad():
        for slope, p in zip(slopes.parameters(), net.parameters(), strict=True):
            slope.copy_(
                torch.zeros_like(p) if p.grad is None else p.grad
            )  # an expert that no token was sent to has none
    save_network(slopes, tmp_path)
    ours, theirs = load_file(tmp_path / "model.safetensors"), gradients_under_file_names(model, folder)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        close(ours[name], gradient)
    model.zero_grad(), net.zero_grad()


def gradients_under_file_names(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    """transformers' gradients, written as its weights are, so that they carry the names of its files."""
    values = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
        model.save_pretrained(folder / "gradients")
        for name, parameter in model.named_parameters():
            parameter.copy_(values[name])
    return load_file(folder / "gradients" / "model.safetensors")


def test_left_padding(pair) -> None:
    model, net, _ = pair
    ids, pad = random_ids(3, 14, net.spec.vocab), [0, 4, 1]
    seen = torch.arange(14)[None] >= torch.tensor(pad)[:, None]
    with torch.no_grad():
        positions = (seen.cumsum(-1) - 1).clamp(min=0)
        logits = model(ids, attention_mask=seen.long(), position_ids=positions).logits
    close(net.run(ids, pad=pad).logits[seen], logits[seen])


def test_residual_stream(pair) -> None:
    model, net, _ = pair
    ids = random_ids(2, 9, net.spec.vocab)
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states
    result = net.run(ids, save=["embed", "resid_post.all", "final_norm"])
    close(result["embed"], states[0])
    for layer in range(2):
        close(result["resid_post.all"][layer], states[layer + 1])
    close(result["final_norm"], states[-1])


def test_patterns(pair) -> None:
    model, net, _ = pair
    ids = random_ids(2, 11, net.spec.vocab)
    with torch.no_grad():
        attentions = model(ids, output_attentions=True).attentions
    result = net.run(ids, save="pattern.all")
    close(result["pattern.all"], torch.stack(attentions))
    close(result.logits, net(ids))


def test_greedy_generation(pair) -> None:
    model, net, _ = pair
    ids = random_ids(2, 18, net.spec.vocab, seed=4)
    made = model.generate(ids, max_new_tokens=14, do_sample=False, attention_mask=torch.ones_like(ids))
    assert torch.equal(generate(net, ids, new=14).ids, made)


def test_export_is_bit_identical_and_opens_in_transformers(pair, tmp_path: Path) -> None:
    _, net, folder = pair
    save_network(net, tmp_path)
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    kinds = [json.loads((path / "config.json").read_text())["model_type"] for path in (folder, tmp_path)]
    assert kinds[0] == kinds[1]
    ids = random_ids(2, 25, net.spec.vocab)
    logits = []
    for path in (folder, tmp_path):  # both opened anew: dynamic frequencies remember the longest text seen
        opened, info = transformers.AutoModelForCausalLM.from_pretrained(
            path, output_loading_info=True, attn_implementation="eager"
        )
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        with torch.no_grad():
            logits.append(opened.eval()(ids).logits)
    close(*logits, 1e-6)
    again = load_network(tmp_path)
    assert again.spec == net.spec and torch.equal(again(ids), net(ids))
    bare = json.loads((tmp_path / "config.json").read_text())
    del bare["cloche"]  # as a later save by transformers leaves it
    (tmp_path / "config.json").write_text(json.dumps(bare))
    assert load_network(tmp_path).spec.resolved() == net.spec.resolved()


UNKNOWN = {
    name: next(case for case, (family, _) in FAMILIES.items() if family == name) for name, _ in FAMILIES.values()
}


@pytest.mark.parametrize("family", UNKNOWN)
def test_what_is_not_understood_is_named(family: str, tmp_path: Path) -> None:
    theirs(UNKNOWN[family]).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"residual_multiplier": 0.5}))
    with pytest.raises(ClocheError, match=r"config\.json: the field 'residual_multiplier' \(0\.5\) is not understood"):
        load_network(tmp_path)
    depth = "n_layer" if family == "GPT2" else "num_hidden_layers"
    path.write_text(json.dumps({k: v for k, v in config.items() if k != depth}))
    with pytest.raises(ClocheError, match=f"'{depth}' is missing|lacks the tensor"):  # GPT-2's default is 12
        load_network(tmp_path)
    fewer = {depth: 2} | ({"layer_types": config["layer_types"][:2]} if "layer_types" in config else {})
    path.write_text(json.dumps(config | fewer))
    with pytest.raises(ClocheError, match="that its config does not explain"):
        load_network(tmp_path)


FAMILY_TYPES = {
    family.model_type: family for family in families() if family.model_type not in ("gpt2", "llama_shifted_relu")
}
LEAST = {
    "vocab_size": 53,
    "hidden_size": 256,
    "intermediate_size": 96,
    "num_hidden_layers": 13,
    "num_attention_heads": 32,
}
FACTORS = {"short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [2.0, 3.0, 5.5, 7.0]}
SPELLINGS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"{kind}, nothing but sizes": (kind, {}) for kind in FAMILY_TYPES},
    "gpt_neox, old names": ("gpt_neox", {"rotary_pct": 0.5, "rotary_emb_base": 777}),
    "mistral, old names": ("mistral", {"rope_theta": 777.0, "rope_scaling": None}),
    "llama, old names": (
        "llama",
        {
            "rope_theta": 5e5,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        },
    ),
    "phi3, old names": (
        "phi3",
        {
            "original_max_position_embeddings": 4096,
            "max_position_embeddings": 131072,
            "rope_scaling": {"type": "longrope", **FACTORS},
        },
    ),
    "gemma3, old names": (
        "gemma3_text",
        {
            "rope_theta": 1e5,
            "rope_local_base_freq": 300.0,
            "sliding_window_pattern": 4,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
    "gpt_oss, old names": (
        "gpt_oss",
        {
            "rope_theta": 150000,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 16.0,
                "original_max_position_embeddings": 2048,
                "truncate": False,
            },
        },
    ),
    "qwen2, windows": ("qwen2", {"use_sliding_window": True, "max_window_layers": 4, "sliding_window": 100}),
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_what_a_config_leaves_out_or_spells_as_it_used_to(case: str) -> None:
    """The tree of the bare config is the tree of what transformers makes of it."""
    kind, change = SPELLINGS[case]
    config = LEAST | change
    whole = json.loads(transformers.AutoConfig.for_model(kind, **json.loads(json.dumps(config))).to_json_string())
    family = FAMILY_TYPES[kind]
    assert family.read(config).resolved() == family.read(whole).resolved()


def test_shifts_that_a_config_does_not_say(tmp_path: Path) -> None:
    """Nobody else knows this family, so there is no default to take for them."""
    theirs("llama_shifted_relu").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for change in ({"hidden_act_shift": None}, {"norm_output_relu_shift": "one"}, {"hidden_act": "silu"}):
        path.write_text(json.dumps(config | change))
        with pytest.raises(ClocheError, match=f"config.json: {next(iter(change))} = .*nothing was loaded"):
            load_network(tmp_path)


def test_experts_that_are_stacked_are_counted(tmp_path: Path) -> None:
    theirs("gpt_oss").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for count in (3, 5):
        path.write_text(json.dumps(config | {"num_local_experts": count}))
        with pytest.raises(ClocheError, match=rf"has shape \[4, .*and the config asks for \[{count}, "):
            load_network(tmp_path)


ROPES = {
    "unknown kind": (scaled("spiral"), "rope_type = 'spiral'"),
    "unknown field": (scaled("linear", factor=2.0, twist=1), "the field 'twist'"),
    "missing field": (scaled("llama3", factor=2.0), "needs the field 'low_freq_factor'"),
    "text": (scaled("linear", factor="two"), "factor"),
    "factors of another count": (
        scaled("longrope", short_factor=[1.0], long_factor=[1.0], original_max_position_embeddings=8),
        "LongRoPE needs 3 short",
    ),
    "no object": ({"rope_parameters": "linear"}, "must be an object"),
}


@pytest.mark.parametrize("case", ROPES)
def test_rope_parameters_that_are_not_understood(case: str, tmp_path: Path) -> None:
    theirs("llama, linear").save_pretrained(tmp_path)
    change, sentence = ROPES[case]
    config = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ClocheError, match=sentence) as caught:
        load_network(tmp_path)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_the_older_spelling_of_scaled_positions(tmp_path: Path) -> None:
    model = theirs("llama, linear")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_parameters"]
    config |= {"rope_theta": 1000.0, "rope_scaling": {"type": "linear", "factor": 2.5}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ids = random_ids(1, 9, 53)
    with torch.no_grad():
        close(load_network(tmp_path)(ids), model(ids).logits)
