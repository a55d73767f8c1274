"""Qwen3-MoE checkpoints: a Qwen3 whose map is a mixture of experts in some layers, or in all."""

from __future__ import annotations

from typing import Any

from cloche.model.bodies.stack import Block
from cloche.model.huggingface.families import decoder, qwen3
from cloche.model.huggingface.fields import activation_of
from cloche.model.lm import LM
from cloche.model.maps.mlp import GLU
from cloche.model.maps.moe import MoE
from cloche.model.mixers.attention import Attention

ALSO = (
    "attention_bias",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",  # transformers reads no more than the two above
    "decoder_sparse_step",
    "mlp_only_layers",
    "moe_intermediate_size",
    "num_experts",
    "num_local_experts",
    "num_experts_per_tok",
    "norm_topk_prob",
)
DEFAULTS: dict[str, Any] = {
    "num_key_value_heads": 4,
    "attention_bias": False,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "decoder_sparse_step": 1,
    "mlp_only_layers": None,
    "moe_intermediate_size": 768,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
    "max_position_embeddings": 32768,
}
NAMES = qwen3.NAMES | decoder.expert_names("mlp.gate", "mlp.experts", gate="gate_proj", up="up_proj", down="down_proj")


class Qwen3MoE(decoder.Decoder):
    """Qwen3-MoE's configs and names."""

    model_type = "qwen3_moe"
    architecture = "Qwen3MoeForCausalLM"
    tensors = NAMES

    def read(self, config: dict[str, Any]) -> LM:
        config = decoder.opened(config, also=ALSO, only=qwen3.NORMED, **DEFAULTS)
        norm, experts = decoder.rms(config), config.get("num_experts", config.get("num_local_experts", 128))
        window = config["sliding_window"] if config["use_sliding_window"] else None
        mix = decoder.attention(config, mask=decoder.masked(window), bias=config["attention_bias"], qk_norm=norm)
        expert = GLU(activation_of(config), hidden=config["moe_intermediate_size"])
        step, dense = config["decoder_sparse_step"], config["mlp_only_layers"] or []
        moe = MoE(experts, config["num_experts_per_tok"], expert, config["norm_topk_prob"]) if experts else None
        return decoder.model(
            config,
            [
                Block(mix, moe if moe and i not in dense and (i + 1) % step == 0 else decoder.glu(config), norm)
                for i in range(config["num_hidden_layers"])
            ],
        )

    def fields(self, spec: LM, mix: Attention, hidden: Any) -> dict[str, Any] | None:
        experts = decoder.gated_experts(spec)
        if experts is None:
            return None
        moe, expert = experts
        maps = [block.map for block in decoder.blocks_of(spec)]
        dense = next((found for found in maps if isinstance(found, GLU)), expert)
        window = decoder.window_of(mix.mask)
        return {
            "attention_bias": mix.bias,
            "use_sliding_window": window is not None,
            "sliding_window": window,
            "intermediate_size": dense.resolved(spec.width).hidden,
            "moe_intermediate_size": expert.resolved(spec.width).hidden,
            "num_experts": moe.experts,
            "num_experts_per_tok": moe.active,
            "norm_topk_prob": moe.normalise,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [i for i, found in enumerate(maps) if not isinstance(found, MoE)],
        }
