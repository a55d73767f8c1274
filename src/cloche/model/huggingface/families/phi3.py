"""Phi-3 checkpoints: a Llama whose q, k and v, and whose gate and up, are one matrix each, as ours are."""

from __future__ import annotations

from typing import Any

from cloche.model.bodies.stack import Block
from cloche.model.huggingface.families import decoder
from cloche.model.huggingface.rename import Names
from cloche.model.huggingface.ropes import LENGTH, parameters_of
from cloche.model.lm import LM
from cloche.model.mixers.attention import Attention
from cloche.model.positions.scalings import LongRoPE

NAMES: Names = {
    **decoder.NAMES,
    "body.layers.*.mix.qkv": f"{decoder.LAYER}.self_attn.qkv_proj",
    "body.layers.*.map.inner": f"{decoder.LAYER}.mlp.gate_up_proj",
}
DEFAULTS: dict[str, Any] = {
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
    LENGTH: 4096,
    "sliding_window": None,
}


class Phi3(decoder.Decoder):
    """Phi-3's configs and names."""

    model_type = "phi3"
    architecture = "Phi3ForCausalLM"
    tensors = NAMES

    def read(self, config: dict[str, Any]) -> LM:
        config = decoder.opened(config, also=("sliding_window", LENGTH, "partial_rotary_factor"), **DEFAULTS)
        rope = dict(parameters_of(config))
        kind = rope.get("rope_type") or rope.get("type")
        if kind in ("su", "yarn"):  # what its first files called longrope
            rope["rope_type"] = "longrope"
        mix = decoder.attention(config, decoder.read_rope(config, rope), mask=decoder.masked(config["sliding_window"]))
        return decoder.model(config, Block(mix, decoder.glu(config), decoder.rms(config)))

    def fields(self, spec: LM, mix: Attention, hidden: Any) -> dict[str, Any] | None:
        scaling = getattr(mix.position, "scaling", None)
        known = scaling is None or isinstance(scaling, LongRoPE)  # transformers' Phi-3 knows no other
        if not known or spec.width != mix.heads * mix.size(spec.width):
            return None
        own = decoder.NO_TOKENS | {"sliding_window": decoder.window_of(mix.mask)}
        return own if scaling is None else own | {LENGTH: scaling.length}
