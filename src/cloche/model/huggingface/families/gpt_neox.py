"""GPT-NeoX checkpoints (Pythia): both branches read the same stream, and a share of each head is rotated."""

from __future__ import annotations

import dataclasses
from typing import Any

from cloche.model.bodies.stack import Block, ParallelBlock, Stack
from cloche.model.huggingface.families.decoder import ROPE, blocks_of
from cloche.model.huggingface.families.family import Family
from cloche.model.huggingface.fields import (
    activation_of,
    check_complete,
    check_config,
    their_activation,
)
from cloche.model.huggingface.rename import Names, Rename
from cloche.model.huggingface.ropes import read_rope, write_rope
from cloche.model.lm import LM
from cloche.model.maps.mlp import MLP
from cloche.model.mixers.attention import Attention
from cloche.model.norms import LayerNorm
from cloche.model.positions.encodings import RoPE

REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
DEFAULTS: dict[str, Any] = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "use_parallel_residual": True,
    "attention_bias": True,
    "max_position_embeddings": 2048,
    "rotary_emb_base": 10_000,
    "rotary_pct": 0.25,
}
LAYER = "gpt_neox.layers.*"
NAMES: Names = {
    "embed": "gpt_neox.embed_in",
    "final_norm": "gpt_neox.final_layer_norm",
    "unembed": "embed_out",
    "body.layers.*.mix_norm": f"{LAYER}.input_layernorm",
    "body.layers.*.map_norm": f"{LAYER}.post_attention_layernorm",
    "body.layers.*.mix.qkv": f"{LAYER}.attention.query_key_value",
    "body.layers.*.mix.out": f"{LAYER}.attention.dense",
    "body.layers.*.map.inner": f"{LAYER}.mlp.dense_h_to_4h",
    "body.layers.*.map.outer": f"{LAYER}.mlp.dense_4h_to_h",
}


class GPTNeoX(Family):
    """GPT-NeoX's configs and names."""

    model_type = "gpt_neox"
    prefix = "gpt_neox."
    tensors = NAMES

    def read(self, config: dict[str, Any]) -> LM:
        check_config(config, dict.fromkeys((*REQUIRED, *ROPE, *DEFAULTS), ...))
        check_complete(config, REQUIRED)
        config = {"partial_rotary_factor": config.get("rotary_pct", DEFAULTS["rotary_pct"])} | DEFAULTS | config
        norm = LayerNorm(eps=config["layer_norm_eps"])
        mix = Attention(
            config["num_attention_heads"],
            position=read_rope(config, theta=config["rotary_emb_base"]),
            bias=config["attention_bias"],
        )
        mlp = MLP(activation_of(config), hidden=config["intermediate_size"], bias=True)
        kind = ParallelBlock if config["use_parallel_residual"] else Block
        body = Stack(config["num_hidden_layers"], kind(mix, mlp, norm))
        return LM(config["vocab_size"], config["hidden_size"], body, norm=norm, tied=config["tie_word_embeddings"])

    def write(self, spec: LM) -> dict[str, Any] | None:
        block = next(iter(blocks_of(spec)), None)
        if block is None or not isinstance(block.mix, Attention) or not isinstance(block.map, MLP):
            return None
        rope = block.mix.position
        if not isinstance(rope, RoPE) or not isinstance(spec.norm, LayerNorm):
            return None
        rotary = write_rope(rope)
        rotary["rope_parameters"].setdefault("partial_rotary_factor", 1.0)  # left out, it would be a quarter
        return {
            "architectures": ["GPTNeoXForCausalLM"],
            "model_type": self.model_type,
            "vocab_size": spec.vocab,
            "hidden_size": spec.width,
            "intermediate_size": block.map.resolved(spec.width).hidden,
            "num_hidden_layers": len(blocks_of(spec)),
            "num_attention_heads": block.mix.heads,
            "hidden_act": their_activation(block.map.activation),
            "layer_norm_eps": spec.norm.eps,
            "attention_bias": block.mix.bias,
            "use_parallel_residual": isinstance(block, ParallelBlock),
            "tie_word_embeddings": spec.tied,
            **rotary,
        }

    def names(self, spec: LM) -> list[Rename]:
        """With q, k and v of each head together."""
        heads = blocks_of(spec)[0].mix.heads  # type: ignore[attr-defined]
        return [
            dataclasses.replace(rule, interleaved=heads) if ".mix.qkv." in rule.ours else rule
            for rule in super().names(spec)
        ]
