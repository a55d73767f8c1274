"""Mistral checkpoints: a Llama whose tokens see a window."""

from __future__ import annotations

from typing import Any

from cloche.model.bodies.stack import Block
from cloche.model.huggingface.families import decoder
from cloche.model.lm import LM

PREFIX = "model."
NAMES = decoder.NAMES
DEFAULTS: dict[str, Any] = {"num_key_value_heads": 8, "sliding_window": 4096, "max_position_embeddings": 131072}


def read(config: dict[str, Any]) -> LM:
    """The tree of a Mistral config. Raises ClocheError naming a field we do not implement."""
    config = decoder.opened(config, also=("sliding_window",), **DEFAULTS)
    mix = decoder.attention(config, mask=decoder.masked(config["sliding_window"]))
    return decoder.model(config, Block(mix, decoder.glu(config), decoder.rms(config)))


def write(spec: LM) -> dict[str, Any] | None:
    """The Mistral config that might describe a tree, None where none can."""
    found = decoder.shaped(spec)
    if found is None:
        return None
    config = decoder.written(spec, "mistral", "MistralForCausalLM", *found)
    return config | {"sliding_window": decoder.window_of(found[0].mask)}
