"""Qwen2 checkpoints: biases on queries, keys and values alone, and a window in the later layers where it is used."""

from __future__ import annotations

from typing import Any

from cloche.model.bodies.stack import Block
from cloche.model.huggingface.families import decoder
from cloche.model.lm import LM
from cloche.model.mixers.attention import Attention

WINDOW = ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types")
DEFAULTS: dict[str, Any] = {
    "num_key_value_heads": 32,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "max_position_embeddings": 32768,
}


class Qwen2(decoder.Decoder):
    """Qwen2's configs and names."""

    model_type = "qwen2"
    architecture = "Qwen2ForCausalLM"

    def read(self, config: dict[str, Any]) -> LM:
        config = decoder.opened(config, also=WINDOW, **DEFAULTS)
        blocks = [
            Block(
                decoder.attention(config, mask=decoder.masked(w), bias=True, out_bias=False),
                decoder.glu(config),
                decoder.rms(config),
            )
            for w in windows(config)
        ]
        return decoder.model(config, blocks)

    def fields(self, spec: LM, mix: Attention, hidden: Any) -> dict[str, Any] | None:
        return written_windows(spec)


def windows(config: dict[str, Any]) -> list[int | None]:
    """Each layer's window, None where it sees everything before it."""
    size = config["sliding_window"] if config["use_sliding_window"] else None
    types = decoder.layer_types(config)
    if types is None:
        first, depth = config["max_window_layers"], config["num_hidden_layers"]
        types = [decoder.LOCAL if size is not None and i >= first else decoder.GLOBAL for i in range(depth)]
    return [size if kind == decoder.LOCAL else None for kind in types]


def written_windows(spec: LM) -> dict[str, Any]:
    """The fields that say which layers see a window."""
    sizes = [decoder.window_of(block.mix.mask) for block in decoder.blocks_of(spec)]
    types = [decoder.GLOBAL if size is None else decoder.LOCAL for size in sizes]
    size = max((size for size in sizes if size is not None), default=None)
    first = types.index(decoder.LOCAL) if size is not None else len(types)
    return {
        "use_sliding_window": size is not None,
        "sliding_window": size,
        "max_window_layers": first,
        "layer_types": types,
    }
