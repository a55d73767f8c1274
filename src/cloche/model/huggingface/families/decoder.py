"""What Llama's many descendants share: names of fields, and how a tree is read from them and written back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from cloche.errors import ModelUnsupported, shown
from cloche.model.bodies.stack import Block, Stack
from cloche.model.huggingface.families.family import Family
from cloche.model.huggingface.fields import (
    activation_of,
    check_complete,
    check_config,
    their_activation,
)
from cloche.model.huggingface.rename import Names
from cloche.model.huggingface.ropes import read_rope, write_rope
from cloche.model.lm import LM
from cloche.model.maps.mlp import GLU, Map
from cloche.model.maps.moe import MoE
from cloche.model.mixers.attention import Attention
from cloche.model.mixers.masks import Both, Causal, Mask, Window
from cloche.model.mixers.scored import ScoredAttention
from cloche.model.norms import RMSNorm
from cloche.model.positions.encodings import RoPE

REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
ROPE = ("rope_theta", "rope_parameters", "rope_scaling", "max_position_embeddings")
UNDERSTOOD: tuple[str, ...] = (
    *REQUIRED,
    *ROPE,
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "hidden_act",
    "tie_word_embeddings",
)
# transformers' own defaults (5.x), for fields a config leaves out.
DEFAULTS: dict[str, Any] = {
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "max_position_embeddings": 2048,
}
# The tokenizer knows these; left out, they would be the family's own, which may lie outside the vocabulary.
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
LOCAL, GLOBAL = "sliding_attention", "full_attention"
LAYER = "model.layers.*"
NAMES: Names = {
    "embed": "model.embed_tokens",
    "final_norm": "model.norm",
    "unembed": "lm_head",
    "body.layers.*.mix_norm": f"{LAYER}.input_layernorm",
    "body.layers.*.map_norm": f"{LAYER}.post_attention_layernorm",
    "body.layers.*.mix.qkv": tuple(f"{LAYER}.self_attn.{x}_proj" for x in "qkv"),
    "body.layers.*.mix.out": f"{LAYER}.self_attn.o_proj",
    "body.layers.*.map.inner": (f"{LAYER}.mlp.gate_proj", f"{LAYER}.mlp.up_proj"),
    "body.layers.*.map.outer": f"{LAYER}.mlp.down_proj",
}


def expert_names(router: str, experts: str, gate: str, up: str, down: str) -> Names:
    """The tensors of a mixture of gated experts, each by its name in a layer."""
    each = f"{LAYER}.{experts}.*"
    return {
        "body.layers.*.map.router": f"{LAYER}.{router}",
        "body.layers.*.map.experts.*.inner": (f"{each}.{gate}", f"{each}.{up}"),
        "body.layers.*.map.experts.*.outer": f"{each}.{down}",
    }


class Decoder(Family):
    """Llama and its descendants. Each says what its config has beside the fields that all share.

    architecture: the class in transformers that its checkpoints name.
    """

    architecture: ClassVar[str]
    tensors = NAMES

    def write(self, spec: LM) -> dict[str, Any] | None:
        found = shaped(spec)
        own = None if found is None else self.fields(spec, *found[:2])
        return None if found is None or own is None else written(spec, self.model_type, self.architecture, *found) | own

    def fields(self, spec: LM, mix: Attention, hidden: Any) -> dict[str, Any] | None:
        """The family's own fields of a tree, from the attention and the map of its first layer; None where it cannot say it."""
        raise TypeError(f"{type(self).__name__} must define write(spec), or fields(spec, mix, hidden)")


def opened(
    config: dict[str, Any], also: Sequence[str] = (), only: dict[str, Any] | None = None, **defaults: Any
) -> dict[str, Any]:
    """The config with its defaults, once every field is known to be understood: ours, `also`, and `only` at these values."""
    check_config(config, dict.fromkeys((*UNDERSTOOD, *also), ...) | (only or {}))
    check_complete(config, REQUIRED)
    return DEFAULTS | defaults | config


def attention(config: dict[str, Any], position: RoPE | None = None, **changes: Any) -> Attention:
    """The attention of a config; `changes` are fields of the part."""
    made = Attention(
        heads=config["num_attention_heads"],
        kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
        head_size=config.get("head_dim"),
        position=read_rope(config) if position is None else position,
    )
    return dataclasses.replace(made, **changes)


def glu(config: dict[str, Any], bias: bool = False) -> GLU:
    """The gated map of a config."""
    return GLU(activation_of(config), hidden=config["intermediate_size"], bias=bias)


def rms(config: dict[str, Any]) -> RMSNorm:
    """The norm of a config."""
    return RMSNorm(eps=config["rms_norm_eps"])


def masked(window: int | None) -> Mask:
    """Causal, seeing `window` tokens where there is a window."""
    return Causal() if window is None else Causal() & Window(window)


def model(config: dict[str, Any], blocks: Block | list[Block], **changes: Any) -> LM:
    """The tree of a config and its blocks, one a layer or one for all."""
    depth, norm = config["num_hidden_layers"], rms(config)
    body = Stack(depth, blocks if isinstance(blocks, Block) else repeating(blocks))
    made = LM(config["vocab_size"], config["hidden_size"], body, norm=norm, tied=config["tie_word_embeddings"])
    return dataclasses.replace(made, **changes)


def repeating(blocks: list[Block]) -> Block | tuple[Block, ...]:
    """The shortest pattern that, repeated, gives these blocks."""
    period = next(n for n in range(1, len(blocks) + 1) if all(b == blocks[i % n] for i, b in enumerate(blocks)))
    return blocks[0] if period == 1 else tuple(blocks[:period])


def layer_types(config: dict[str, Any]) -> list[str] | None:
    """Which layers see a window and which everything, where the config lists them."""
    types = config.get("layer_types")
    if types is None:
        return None
    depth = config["num_hidden_layers"]
    if len(types) != depth or set(types) - {LOCAL, GLOBAL}:
        raise ModelUnsupported(
            f"layer_types = {shown(types)} must name {LOCAL!r} or {GLOBAL!r} for each of {depth} layers; nothing was loaded."
        )
    return types


def windows_of(spec: LM, usual: int) -> dict[str, Any]:
    """The fields of a tree in which some layers see a window, one size for all; `usual` where none does."""
    windows = [window_of(block.mix.mask) for block in blocks_of(spec)]
    return {
        "sliding_window": next((size for size in windows if size is not None), usual),
        "layer_types": [GLOBAL if size is None else LOCAL for size in windows],
    }


def blocks_of(spec: LM) -> list[Block]:
    """A tree's blocks, one a layer; none where it is no stack."""
    body = spec.body
    return [body.blocks[i % len(body.blocks)] for i in range(body.depth)] if isinstance(body, Stack) else []


def gated_experts(spec: LM) -> tuple[MoE, GLU] | None:
    """The first mixture of gated experts in a tree, and one of its experts."""
    for block in blocks_of(spec):
        if isinstance(block.map, MoE) and isinstance(block.map.expert, GLU):
            return block.map, block.map.expert
    return None


def window_of(mask: Mask) -> int | None:
    """The size of a mask that `masked` made; None for any other."""
    return mask.second.size if isinstance(mask, Both) and isinstance(mask.second, Window) else None


def shaped(spec: LM, kind: type[Map] = GLU) -> tuple[Attention, Any, RMSNorm] | None:
    """The attention, map and norm of the first layer, where they are of the kinds that all share."""
    blocks = blocks_of(spec)
    if not blocks or not isinstance(spec.norm, RMSNorm):
        return None
    mix, hidden = blocks[0].mix, blocks[0].map
    if isinstance(hidden, MoE):
        hidden = hidden.expert
    if isinstance(mix, ScoredAttention):
        mix = mix.attention
    if not isinstance(mix, Attention) or not isinstance(hidden, kind) or not isinstance(mix.position, RoPE):
        return None
    return mix, hidden, spec.norm


def written(spec: LM, kind: str, architecture: str, mix: Attention, hidden: GLU, norm: RMSNorm) -> dict[str, Any]:
    """The fields that all share, from a tree's parts."""
    assert isinstance(mix.position, RoPE)
    return {
        "architectures": [architecture],
        "model_type": kind,
        "vocab_size": spec.vocab,
        "hidden_size": spec.width,
        "intermediate_size": hidden.resolved(spec.width).hidden,
        "num_hidden_layers": len(blocks_of(spec)),
        "num_attention_heads": mix.heads,
        "num_key_value_heads": mix.kv_heads or mix.heads,
        "head_dim": mix.size(spec.width),
        "rms_norm_eps": norm.eps,
        "hidden_act": their_activation(hidden.activation),
        "tie_word_embeddings": spec.tied,
        **write_rope(mix.position),
    }
