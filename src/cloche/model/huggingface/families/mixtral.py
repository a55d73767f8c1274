"""Mixtral checkpoints: a Mistral whose map is a mixture of experts."""

from __future__ import annotations

from typing import Any

from cloche.model.bodies.stack import Block
from cloche.model.huggingface.families import decoder
from cloche.model.lm import LM
from cloche.model.maps.moe import MoE
from cloche.model.mixers.attention import Attention

DEFAULTS: dict[str, Any] = {
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "sliding_window": None,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 131072,
}
NAMES = decoder.NAMES | decoder.expert_names(
    "block_sparse_moe.gate", "block_sparse_moe.experts", gate="w1", up="w3", down="w2"
)


class Mixtral(decoder.Decoder):
    """Mixtral's configs and names."""

    model_type = "mixtral"
    architecture = "MixtralForCausalLM"
    tensors = NAMES

    def read(self, config: dict[str, Any]) -> LM:
        config = decoder.opened(config, also=("sliding_window", "num_local_experts", "num_experts_per_tok"), **DEFAULTS)
        mix = decoder.attention(config, mask=decoder.masked(config["sliding_window"]))
        moe = MoE(config["num_local_experts"], config["num_experts_per_tok"], decoder.glu(config))
        return decoder.model(config, Block(mix, moe, decoder.rms(config)))

    def fields(self, spec: LM, mix: Attention, hidden: Any) -> dict[str, Any] | None:
        experts = decoder.gated_experts(spec)
        return experts and {
            "sliding_window": decoder.window_of(mix.mask),
            "num_local_experts": experts[0].experts,
            "num_experts_per_tok": experts[0].active,
        }
