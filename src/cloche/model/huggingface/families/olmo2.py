"""OLMo 2 checkpoints: what a branch adds is normalised, not what it reads; one norm over all queries, one over all keys."""

from __future__ import annotations

from typing import Any

from cloche.model.bodies.stack import Block
from cloche.model.huggingface.families import decoder
from cloche.model.lm import LM
from cloche.model.norms import AllHeads, NoNorm

PREFIX = "model."
NAMES: dict[str, str | tuple[str, ...]] = {
    **decoder.NAMES,
    "body.layers.*.mix_post": f"{decoder.LAYER}.post_attention_layernorm",
    "body.layers.*.map_post": f"{decoder.LAYER}.post_feedforward_layernorm",
    "body.layers.*.mix.q_norm.all": f"{decoder.LAYER}.self_attn.q_norm",
    "body.layers.*.mix.k_norm.all": f"{decoder.LAYER}.self_attn.k_norm",
}


def read(config: dict[str, Any]) -> LM:
    """The tree of an OLMo 2 config. Raises ClocheError naming a field we do not implement."""
    config = decoder.opened(config, also=("attention_bias",), rms_norm_eps=1e-5)
    norm = decoder.rms(config)
    mix = decoder.attention(config, bias=config.get("attention_bias", False), qk_norm=AllHeads(norm))
    return decoder.model(config, Block(mix, decoder.glu(config), norm=NoNorm(), post=norm))


def write(spec: LM) -> dict[str, Any] | None:
    """The OLMo 2 config that might describe a tree, None where none can."""
    found = decoder.shaped(spec)
    if found is None:
        return None
    config = decoder.written(spec, "olmo2", "Olmo2ForCausalLM", *found)
    return config | decoder.NO_TOKENS | {"attention_bias": found[0].bias}
