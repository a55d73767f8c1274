"""Llama checkpoints (1, 2 and 3, with every scaling of their rotary positions) as a composition of parts."""

from __future__ import annotations

from typing import Any

from cloche.model.bodies.stack import Block
from cloche.model.huggingface.families import decoder
from cloche.model.lm import LM
from cloche.model.mixers.attention import Attention


class Llama(decoder.Decoder):
    """Llama's configs and names."""

    model_type = "llama"
    architecture = "LlamaForCausalLM"

    def read(self, config: dict[str, Any]) -> LM:
        config = decoder.opened(config, also=("attention_bias", "mlp_bias"))
        mix = decoder.attention(config, bias=config.get("attention_bias", False))
        block = Block(mix, decoder.glu(config, bias=config.get("mlp_bias", False)), decoder.rms(config))
        return decoder.model(config, block)

    def fields(self, spec: LM, mix: Attention, hidden: Any) -> dict[str, Any] | None:
        if spec.width % mix.heads:  # transformers refuses it, head_dim given or not
            return None
        return {"attention_bias": mix.bias, "mlp_bias": hidden.bias}
