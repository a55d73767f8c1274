"""Llama checkpoints (1, 2 and 3, with every scaling of their rotary positions) as a composition of parts."""

from __future__ import annotations

from typing import Any

from cloche.model.bodies.stack import Block
from cloche.model.huggingface.families import decoder
from cloche.model.huggingface.families.family import Family
from cloche.model.lm import LM


class Llama(Family):
    """Llama's configs and names."""

    model_type = "llama"
    tensors = decoder.NAMES

    def read(self, config: dict[str, Any]) -> LM:
        config = decoder.opened(config, also=("attention_bias", "mlp_bias"))
        mix = decoder.attention(config, bias=config.get("attention_bias", False))
        block = Block(mix, decoder.glu(config, bias=config.get("mlp_bias", False)), decoder.rms(config))
        return decoder.model(config, block)

    def write(self, spec: LM) -> dict[str, Any] | None:
        found = decoder.shaped(spec)
        if found is None or spec.width % found[0].heads:  # transformers refuses the latter, head_dim given or not
            return None
        mix, glu, _ = found
        config = decoder.written(spec, self.model_type, "LlamaForCausalLM", *found)
        return config | {"attention_bias": mix.bias, "mlp_bias": glu.bias}
