"""Gemma 2 checkpoints: norms on both sides of a branch, capped scores and logits, every other layer local."""

from __future__ import annotations

from typing import Any

from cloche.model.bodies.stack import Block
from cloche.model.huggingface.families import decoder
from cloche.model.huggingface.families.family import Family
from cloche.model.huggingface.fields import activation_of
from cloche.model.huggingface.rename import Names
from cloche.model.huggingface.ropes import read_rope
from cloche.model.lm import LM, Unembed
from cloche.model.maps.mlp import GLU
from cloche.model.mixers.scored import ScoredAttention
from cloche.model.norms import ZeroCenteredRMSNorm
from cloche.model.positions.encodings import RoPE

ALSO = (
    "hidden_activation",
    "attention_bias",
    "query_pre_attn_scalar",
    "sliding_window",
    "layer_types",
    "final_logit_softcapping",
    "attn_logit_softcapping",
)
DEFAULTS: dict[str, Any] = {
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
}
LAYER = decoder.LAYER
NAMES: Names = {
    **decoder.NAMES,
    "body.layers.*.mix_post": f"{LAYER}.post_attention_layernorm",
    "body.layers.*.map_norm": f"{LAYER}.pre_feedforward_layernorm",
    "body.layers.*.map_post": f"{LAYER}.post_feedforward_layernorm",
}


class Gemma2(Family):
    """Gemma 2's configs and names."""

    model_type = "gemma2"
    tensors = NAMES

    def read(self, config: dict[str, Any]) -> LM:
        config = decoder.opened(config, ALSO, **DEFAULTS)
        types = decoder.layer_types(config) or alternating(config, 2)
        rope = read_rope(config)
        return model(config, [block(config, rope, kind) for kind in types])

    def write(self, spec: LM) -> dict[str, Any] | None:
        return written(spec, self.model_type, "Gemma2ForCausalLM")


def alternating(config: dict[str, Any], period: int) -> list[str]:
    """Every `period`th layer sees everything, the others a window."""
    return [decoder.LOCAL if (i + 1) % period else decoder.GLOBAL for i in range(config["num_hidden_layers"])]


def block(config: dict[str, Any], rope: RoPE, kind: str, qk_norm: bool = False) -> Block:
    """One layer, local or global."""
    norm = ZeroCenteredRMSNorm(config["rms_norm_eps"])
    mask = decoder.masked(config["sliding_window"] if kind == decoder.LOCAL else None)
    mix = decoder.attention(config, rope, mask=mask, bias=config["attention_bias"], qk_norm=norm if qk_norm else None)
    scored = ScoredAttention(mix, config["query_pre_attn_scalar"] ** -0.5, config["attn_logit_softcapping"])
    glu = GLU(activation_of(config, "hidden_activation"), hidden=config["intermediate_size"])
    return Block(scored, glu, norm=norm, post=norm)


def model(config: dict[str, Any], blocks: list[Block]) -> LM:
    """The tree of these layers."""
    return decoder.model(
        config,
        blocks,
        norm=ZeroCenteredRMSNorm(config["rms_norm_eps"]),
        head=Unembed(cap=config["final_logit_softcapping"]),
        embed_scale=config["hidden_size"] ** 0.5,
    )


def written(spec: LM, kind: str, architecture: str) -> dict[str, Any] | None:
    """The fields of both generations, from a tree."""
    found, blocks = decoder.shaped(spec), decoder.blocks_of(spec)
    if found is None or not isinstance(spec.head, Unembed) or not isinstance(blocks[0].mix, ScoredAttention):
        return None
    mix, scored = found[0], blocks[0].mix
    if scored.scale is None or spec.width % mix.heads:  # transformers refuses the latter, head_dim given or not
        return None
    config = decoder.written(spec, kind, architecture, *found)
    config["hidden_activation"] = config.pop("hidden_act")
    return (
        config
        | decoder.NO_TOKENS
        | {
            "attention_bias": mix.bias,
            "query_pre_attn_scalar": round(scored.scale**-2),
            "attn_logit_softcapping": scored.cap,
            "final_logit_softcapping": spec.head.cap,
        }
        | decoder.windows_of(spec, 4096)
    )
