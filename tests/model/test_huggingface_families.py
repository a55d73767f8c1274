"""Every family beside transformers: logits, gradients, padding, generation, and export without the loss of a bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from combinations import close, random_ids
from safetensors.torch import load_file

from glasshouse.decode import generate
from glasshouse.errors import GlasshouseError
from glasshouse.model import Network, load_network, save_network
from glasshouse.model.huggingface import describe
from glasshouse.model.huggingface.files import FAMILIES as FAMILY_MODULES
from glasshouse.model.huggingface.rename import to_theirs

transformers = pytest.importorskip("transformers")

SHARED: dict[str, Any] = {
    "vocab_size": 53,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
ODD = {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 10, "intermediate_size": 37, "vocab_size": 31}
TIED = {"tie_word_embeddings": True}
SOME_WINDOWS = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}


def scaled(kind: str, **fields: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1000.0, **fields}, "max_position_embeddings": 16}


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, linear": ("Llama", scaled("linear", factor=2.5)),
    "llama, dynamic": ("Llama", scaled("dynamic", factor=4.0)),
    "llama, llama3": (
        "Llama",
        scaled("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=13)
        | {"head_dim": 16},
    ),
    "llama, yarn": ("Llama", scaled("yarn", factor=4.0, original_max_position_embeddings=16) | {"head_dim": 16}),
    "llama, yarn, everything said": (
        "Llama",
        scaled(
            "yarn",
            factor=3.0,
            original_max_position_embeddings=12,
            beta_fast=4.0,
            beta_slow=0.5,
            mscale=0.7,
            mscale_all_dim=0.4,
            truncate=False,
        )
        | {"head_dim": 16},
    ),
    "llama, yarn, own strength": (
        "Llama",
        scaled("yarn", factor=3.0, attention_factor=1.3, original_max_position_embeddings=20),
    ),
    "llama, longrope": (
        "Llama",
        scaled(
            "longrope",
            factor=4.0,
            short_factor=[1.0, 1.5, 2.0],
            long_factor=[2.0, 3.0, 5.5],
            original_max_position_embeddings=16,
        ),
    ),
    "mistral": ("Mistral", {"sliding_window": 5}),
    "mistral, no window": ("Mistral", {"sliding_window": None, **TIED}),
    "mistral, odd sizes": ("Mistral", {"sliding_window": 2, **ODD}),
    "qwen2": ("Qwen2", {}),
    "qwen2, some windows": ("Qwen2", {**SOME_WINDOWS, **TIED}),
    "qwen2, odd sizes": ("Qwen2", {**ODD, "head_dim": 8}),
    "qwen3": ("Qwen3", {"head_dim": 8}),
    "qwen3, some windows": ("Qwen3", {"head_dim": 6, "attention_bias": True, **SOME_WINDOWS}),
    "qwen3, odd sizes": ("Qwen3", {**ODD, **TIED, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
}

NEOX_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}}
FAMILIES |= {
    "gpt_neox": ("GPTNeoX", {"hidden_size": 32}),  # heads of 8, two of their numbers rotated
    "gpt_neox, branch after branch": (
        "GPTNeoX",
        {"hidden_size": 32, "use_parallel_residual": False, **TIED, **NEOX_ROPE},
    ),
    "gpt_neox, odd sizes": (
        "GPTNeoX",
        {
            **ODD,
            "hidden_size": 42,  # ten of a head's fourteen numbers are rotated
            "attention_bias": False,
            "hidden_act": "gelu_new",
            "layer_norm_eps": 1e-3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75},
        },
    ),
    "gpt_neox, whole heads rotated": (
        "GPTNeoX",
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0, "partial_rotary_factor": 1.0}},
    ),
    "phi3": ("Phi3", {}),
    "phi3, windows and part of each head": (
        "Phi3",
        {
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "sliding_window": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75},
            **TIED,
        },
    ),
    "phi3, longrope": (
        "Phi3",
        {
            "original_max_position_embeddings": 10,
            "max_position_embeddings": 40,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "short_factor": [1.0, 1.5, 2.0],
                "long_factor": [2.0, 3.0, 5.5],
            },
        },
    ),
    "olmo2": ("Olmo2", {}),
    "olmo2, biases": ("Olmo2", {"attention_bias": True, **TIED}),
    "olmo2, odd sizes": ("Olmo2", {**ODD, "head_dim": 8, "rms_norm_eps": 1e-3}),
}

GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 5, "sliding_window": 4, "initializer_range": 0.2}
FAMILIES |= {
    "gemma2": ("Gemma2", {**GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma2, without caps": (
        "Gemma2",
        {
            **GEMMA,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "tie_word_embeddings": False,
            "attention_bias": True,
        },
    ),
    "gemma2, odd sizes": ("Gemma2", {**GEMMA, **ODD, "layer_types": ["full_attention", *["sliding_attention"] * 2]}),
    "gemma3": (
        "Gemma3Text",
        {
            **GEMMA,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0},
            },
        },
    ),
    "gemma3, defaults": (
        "Gemma3Text",
        {"head_dim": 6, "num_hidden_layers": 7, "sliding_window": 3, "tie_word_embeddings": False},
    ),
    "gemma3, capped": ("Gemma3Text", {**GEMMA, **ODD, "final_logit_softcapping": 3.0}),
}

QWEN_EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "head_dim": 8}
FAMILIES |= {
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "mixtral, windows": ("Mixtral", {"num_local_experts": 3, "num_experts_per_tok": 1, "sliding_window": 4, **TIED}),
    "mixtral, odd sizes": (
        "Mixtral",
        {"num_local_experts": 5, "num_experts_per_tok": 5, **ODD, "intermediate_size": 36},
    ),
    "qwen3_moe": ("Qwen3Moe", QWEN_EXPERTS),
    "qwen3_moe, some layers dense": (
        "Qwen3Moe",
        {**QWEN_EXPERTS, "norm_topk_prob": True, "mlp_only_layers": [0], "attention_bias": True, **TIED},
    ),
    "qwen3_moe, odd sizes": (
        "Qwen3Moe",
        {**QWEN_EXPERTS, **ODD, "decoder_sparse_step": 2, "use_sliding_window": True, "sliding_window": 5},
    ),
}

OSS = {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 5}
FAMILIES |= {
    "gpt_oss": ("GptOss", OSS),
    "gpt_oss, clamped at once": (
        "GptOss",
        {
            **OSS,
            "swiglu_limit": 0.1,
            "swiglu_alpha": 1.1,
            "layer_types": ["full_attention"] * 2 + ["sliding_attention"],
        },
    ),
    "gpt_oss, odd sizes": (
        "GptOss",
        {**OSS, **ODD, "intermediate_size": 36, "num_experts_per_tok": 1, **TIED, **scaled("default")},
    ),
}


def theirs(name: str) -> Any:
    family, change = FAMILIES[name]
    torch.manual_seed(0)
    fields = SHARED | change
    if family == "GPTNeoX":
        fields = {k: v for k, v in fields.items() if k not in ("num_key_value_heads", "head_dim")}
    config = getattr(transformers, f"{family}Config")(**fields)
    model = getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")._from_config(
        config, attn_implementation="eager"
    )
    with torch.no_grad():
        for parameter in model.parameters():  # nothing stays at a value that hides a mistake
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


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


def test_gradients(pair) -> None:
    model, net, folder = pair
    ids = random_ids(2, 12, net.spec.vocab)
    for logits in (model(ids, use_cache=False).logits, net(ids)):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    _, family = describe(net.spec, net.family)
    assert family is not None
    # An expert that no token was sent to has none.
    ours = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in net.named_parameters()}
    rows = {name: [last - first for first, last in net.blocks(name)] for name in ours}
    ours = to_theirs(ours, family.names(net.spec), rows)
    theirs = gradients_under_file_names(model, folder)
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
    del bare["glasshouse"]  # as a later save by transformers leaves it
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
    with pytest.raises(
        GlasshouseError, match=r"config\.json: the field 'residual_multiplier' \(0\.5\) is not understood"
    ):
        load_network(tmp_path)
    path.write_text(json.dumps({k: v for k, v in config.items() if k != "num_hidden_layers"}))
    with pytest.raises(GlasshouseError, match="'num_hidden_layers' is missing"):
        load_network(tmp_path)
    fewer = {"num_hidden_layers": 2} | ({"layer_types": config["layer_types"][:2]} if "layer_types" in config else {})
    path.write_text(json.dumps(config | fewer))
    with pytest.raises(GlasshouseError, match="that its config does not explain"):
        load_network(tmp_path)


FAMILY_TYPES = {kind: module for kind, module in FAMILY_MODULES.items() if kind != "gpt2"}
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


def test_experts_that_are_stacked_are_counted(tmp_path: Path) -> None:
    theirs("gpt_oss").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for count, sentence in ((3, "stacks 4 tensors, and the config asks for 3"), (5, "the config asks for more")):
        path.write_text(json.dumps(config | {"num_local_experts": count}))
        with pytest.raises(GlasshouseError, match=sentence):
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
    with pytest.raises(GlasshouseError, match=sentence) as caught:
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
