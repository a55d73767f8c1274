"""Qwen3 checkpoints: a norm on each query and key head."""

from __future__ import annotations

from typing import Any

from cloche.model.bodies.stack import Block
from cloche.model.huggingface.families import decoder, qwen2
from cloche.model.huggingface.rename import Names
from cloche.model.lm import LM
from cloche.model.mixers.attention import Attention

NAMES: Names = {
    **decoder.NAMES,
    "body.layers.*.mix.q_norm": f"{decoder.LAYER}.self_attn.q_norm",
    "body.layers.*.mix.k_norm": f"{decoder.LAYER}.self_attn.k_norm",
}
NORMED = {"use_qk_norm": True}


class Qwen3(decoder.Decoder):
    """Qwen3's configs and names."""

    model_type = "qwen3"
    architecture = "Qwen3ForCausalLM"
    tensors = NAMES

    def read(self, config: dict[str, Any]) -> LM:
        config = decoder.opened(
            config, also=(*qwen2.WINDOW, "attention_bias"), only=NORMED, head_dim=128, **qwen2.DEFAULTS
        )
        norm, bias = decoder.rms(config), config.get("attention_bias", False)
        blocks = [
            Block(decoder.attention(config, mask=decoder.masked(w), bias=bias, qk_norm=norm), decoder.glu(config), norm)
            for w in qwen2.windows(config)
        ]
        return decoder.model(config, blocks)

    def fields(self, spec: LM, mix: Attention, hidden: Any) -> dict[str, Any] | None:
        return {"attention_bias": mix.bias} | qwen2.written_windows(spec)
