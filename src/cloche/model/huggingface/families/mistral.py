"""Mistral checkpoints: a Llama whose tokens see a window."""

from __future__ import annotations

from typing import Any

from cloche.model.bodies.stack import Block
from cloche.model.huggingface.families import decoder
from cloche.model.lm import LM
from cloche.model.mixers.attention import Attention

DEFAULTS: dict[str, Any] = {"num_key_value_heads": 8, "sliding_window": 4096, "max_position_embeddings": 131072}


class Mistral(decoder.Decoder):
    """Mistral's configs and names."""

    model_type = "mistral"
    architecture = "MistralForCausalLM"

    def read(self, config: dict[str, Any]) -> LM:
        config = decoder.opened(config, also=("sliding_window",), **DEFAULTS)
        mix = decoder.attention(config, mask=decoder.masked(config["sliding_window"]))
        return decoder.model(config, Block(mix, decoder.glu(config), decoder.rms(config)))

    def fields(self, spec: LM, mix: Attention, hidden: Any) -> dict[str, Any] | None:
        return {"sliding_window": decoder.window_of(mix.mask)}
