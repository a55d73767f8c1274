"""Qwen3 checkpoints: a norm on each query and key head."""

from __future__ import annotations

from typing import Any

from cloche.model.bodies.stack import Block
from cloche.model.huggingface.families import decoder, qwen2
from cloche.model.lm import LM

PREFIX = "model."
NAMES: dict[str, str | tuple[str, ...]] = {
    **decoder.NAMES,
    "body.layers.*.mix.q_norm": f"{decoder.LAYER}.self_attn.q_norm",
    "body.layers.*.mix.k_norm": f"{decoder.LAYER}.self_attn.k_norm",
}
NORMED = {"use_qk_norm": True}


def read(config: dict[str, Any]) -> LM:
    """The tree of a Qwen3 config. Raises ClocheError naming a field we do not implement."""
    config = decoder.opened(config, also=(*qwen2.WINDOW, "attention_bias"), only=NORMED, head_dim=128, **qwen2.DEFAULTS)
    norm, bias = decoder.rms(config), config.get("attention_bias", False)
    blocks = [
        Block(decoder.attention(config, mask=decoder.masked(w), bias=bias, qk_norm=norm), decoder.glu(config), norm)
        for w in qwen2.windows(config)
    ]
    return decoder.model(config, blocks)


def write(spec: LM) -> dict[str, Any] | None:
    """The Qwen3 config that might describe a tree, None where none can."""
    found = decoder.shaped(spec)
    if found is None:
        return None
    config = decoder.written(spec, "qwen3", "Qwen3ForCausalLM", *found)
    return config | {"attention_bias": found[0].bias} | qwen2.written_windows(spec)
