"""Mistral checkpoints: a Llama whose tokens see a window."""

from __future__ import annotations

from typing import Any

from cloche.model.bodies.stack import Block
from cloche.model.huggingface.families import decoder
from cloche.model.huggingface.families.family import Family
from cloche.model.lm import LM

DEFAULTS: dict[str, Any] = {"num_key_value_heads": 8, "sliding_window": 4096, "max_position_embeddings": 131072}


class Mistral(Family):
    """Mistral's configs and names."""

    model_type = "mistral"
    tensors = decoder.NAMES

    def read(self, config: dict[str, Any]) -> LM:
        config = decoder.opened(config, also=("sliding_window",), **DEFAULTS)
        mix = decoder.attention(config, mask=decoder.masked(config["sliding_window"]))
        return decoder.model(config, Block(mix, decoder.glu(config), decoder.rms(config)))

    def write(self, spec: LM) -> dict[str, Any] | None:
        found = decoder.shaped(spec)
        if found is None:
            return None
        config = decoder.written(spec, self.model_type, "MistralForCausalLM", *found)
        return config | {"sliding_window": decoder.window_of(found[0].mask)}
