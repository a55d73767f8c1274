"""Llama checkpoints (1, 2 and 3 with plain rotary positions) as a composition of parts."""

from __future__ import annotations

from typing import Any

from glasshouse.errors import GlasshouseError
from glasshouse.model.attention import Attention
from glasshouse.model.bodies import Block, Stack
from glasshouse.model.huggingface.rename import IGNORED, Rename, check_complete, check_config
from glasshouse.model.lm import LM
from glasshouse.model.maps import GLU
from glasshouse.model.norms import RMSNorm
from glasshouse.model.positions import RoPE

# transformers' own defaults (5.x), for fields a config leaves out.
DEFAULTS: dict[str, Any] = {
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "max_position_embeddings": 2048,
}
ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu": "gelu", "relu": "relu", "gelu_pytorch_tanh": "gelu_tanh"}

PREFIX = "model."  # of every tensor but the head
REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
UNDERSTOOD: dict[str, Any] = {
    **dict.fromkeys(REQUIRED, ...),
    **dict.fromkeys(("num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta"), ...),
    **dict.fromkeys(("rope_parameters", "hidden_act", "attention_bias", "mlp_bias", "tie_word_embeddings"), ...),
    "rope_scaling": None,
}


def read(config: dict[str, Any]) -> LM:
    """The tree of a Llama config. Raises GlasshouseError naming a field we do not implement."""
    check_config(config, UNDERSTOOD, IGNORED)
    check_complete(config, REQUIRED)
    config = DEFAULTS | config
    rope = config.get("rope_parameters") or {}
    check_config(rope, {"rope_theta": ..., "rope_type": "default"}, frozenset())
    if config["hidden_act"] not in ACTIVATIONS:
        raise GlasshouseError(f"hidden_act = {config['hidden_act']!r} is not supported; nothing was loaded.")
    norm = RMSNorm(eps=config["rms_norm_eps"])
    attention = Attention(
        heads=config["num_attention_heads"],
        kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
        head_size=config.get("head_dim"),
        position=RoPE(theta=rope.get("rope_theta") or config.get("rope_theta") or 10_000.0),
        bias=config.get("attention_bias", False),
    )
    glu = GLU(ACTIVATIONS[config["hidden_act"]], hidden=config["intermediate_size"], bias=config.get("mlp_bias", False))
    body = Stack(config["num_hidden_layers"], Block(mix=attention, map=glu, norm=norm))
    return LM(config["vocab_size"], config["hidden_size"], body, norm=norm, tied=config["tie_word_embeddings"])


def write(spec: LM) -> dict[str, Any] | None:
    """The Llama config of a tree, or None where the tree is no Llama."""
    block = spec.body.block if isinstance(spec.body, Stack) and isinstance(spec.body.block, Block) else None
    if block is None or not isinstance(block.mix, Attention) or not isinstance(block.map, GLU):
        return None
    attention, glu = block.mix, block.map
    if not isinstance(attention.position, RoPE) or not isinstance(spec.norm, RMSNorm):
        return None
    if spec.width % attention.heads:  # transformers refuses such a config, though it gives the head size too
        return None
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": spec.vocab,
        "hidden_size": spec.width,
        "intermediate_size": glu.hidden or 8 * spec.width // 3,
        "num_hidden_layers": spec.body.depth,  # type: ignore[attr-defined]
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads or attention.heads,
        "head_dim": attention.size(spec.width),
        "rms_norm_eps": spec.norm.eps,
        "rope_theta": attention.position.theta,
        "rope_parameters": {"rope_theta": attention.position.theta, "rope_type": "default"},
        "hidden_act": next((theirs for theirs, ours in ACTIVATIONS.items() if ours == glu.activation), None),
        "attention_bias": attention.bias,
        "mlp_bias": glu.bias,
        "tie_word_embeddings": spec.tied,
    }
    # Whatever else the tree says that a Llama cannot (a window, a norm on q and k, ...) shows as a difference here.
    if config["hidden_act"] is None or read(config).resolved() != spec.resolved():
        return None
    return config


def names(spec: LM) -> list[Rename]:
    """Where each of our tensors is found in a Llama checkpoint."""
    rules = [
        Rename("embed.weight", ("model.embed_tokens.weight",)),
        Rename("final_norm.weight", ("model.norm.weight",)),
    ]
    if not spec.tied:
        rules.append(Rename("unembed.weight", ("lm_head.weight",)))
    body = spec.body
    assert isinstance(body, Stack) and isinstance(body.block, Block)
    attention_kinds = ["weight", "bias"] if body.block.mix.bias else ["weight"]  # type: ignore[attr-defined]
    map_kinds = ["weight", "bias"] if body.block.map.bias else ["weight"]  # type: ignore[attr-defined]
    for layer in range(body.depth):
        ours, theirs = f"body.layers.{layer}", f"model.layers.{layer}"
        rules += [
            Rename(f"{ours}.mix_norm.weight", (f"{theirs}.input_layernorm.weight",)),
            Rename(f"{ours}.map_norm.weight", (f"{theirs}.post_attention_layernorm.weight",)),
        ]
        for kind in attention_kinds:
            attention = f"{theirs}.self_attn"
            rules.append(Rename(f"{ours}.mix.qkv.{kind}", tuple(f"{attention}.{x}_proj.{kind}" for x in "qkv")))
            rules.append(Rename(f"{ours}.mix.out.{kind}", (f"{attention}.o_proj.{kind}",)))
        for kind in map_kinds:
            rules.append(
                Rename(f"{ours}.map.inner.{kind}", (f"{theirs}.mlp.gate_proj.{kind}", f"{theirs}.mlp.up_proj.{kind}"))
            )
            rules.append(Rename(f"{ours}.map.outer.{kind}", (f"{theirs}.mlp.down_proj.{kind}",)))
    return rules
