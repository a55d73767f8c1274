"""OLMo 2 checkpoints: what a branch adds is normalised, not what it reads; one norm over all queries, one over all keys."""

from __future__ import annotations

from typing import Any

from cloche.model.bodies.stack import Block
from cloche.model.huggingface.families import decoder
from cloche.model.huggingface.rename import Names
from cloche.model.lm import LM
from cloche.model.mixers.attention import Attention
from cloche.model.norms import AllHeads, NoNorm

NAMES: Names = {
    **decoder.NAMES,
    "body.layers.*.mix_post": f"{decoder.LAYER}.post_attention_layernorm",
    "body.layers.*.map_post": f"{decoder.LAYER}.post_feedforward_layernorm",
    "body.layers.*.mix.q_norm.all": f"{decoder.LAYER}.self_attn.q_norm",
    "body.layers.*.mix.k_norm.all": f"{decoder.LAYER}.self_attn.k_norm",
}


class Olmo2(decoder.Decoder):
    """OLMo 2's configs and names."""

    model_type = "olmo2"
    architecture = "Olmo2ForCausalLM"
    tensors = NAMES

    def read(self, config: dict[str, Any]) -> LM:
        config = decoder.opened(config, also=("attention_bias",), rms_norm_eps=1e-5)
        norm = decoder.rms(config)
        mix = decoder.attention(config, bias=config.get("attention_bias", False), qk_norm=AllHeads(norm))
        return decoder.model(config, Block(mix, decoder.glu(config), norm=NoNorm(), post=norm))

    def fields(self, spec: LM, mix: Attention, hidden: Any) -> dict[str, Any] | None:
        return decoder.NO_TOKENS | {"attention_bias": mix.bias}
