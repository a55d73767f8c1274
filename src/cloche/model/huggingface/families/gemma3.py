"""Gemma 3 checkpoints (the text models): Gemma 2 with normed queries and keys, and a theta for local layers of their own."""

from __future__ import annotations

from typing import Any

from cloche.errors import ModelUnsupported, shown
from cloche.model.huggingface.families import decoder, gemma2
from cloche.model.huggingface.families.family import Family
from cloche.model.huggingface.rename import Names
from cloche.model.huggingface.ropes import read_rope, write_rope
from cloche.model.lm import LM
from cloche.model.mixers.attention import Attention
from cloche.model.mixers.scored import ScoredAttention
from cloche.model.positions.encodings import RoPE

DEFAULTS: dict[str, Any] = gemma2.DEFAULTS | {
    "final_logit_softcapping": None,
    "attn_logit_softcapping": None,
    "max_position_embeddings": 131072,
    "sliding_window_pattern": 6,
}
THETAS = {decoder.LOCAL: ("rope_local_base_freq", 10_000.0), decoder.GLOBAL: ("rope_theta", 1_000_000.0)}
NAMES: Names = {
    **gemma2.NAMES,
    "body.layers.*.mix.q_norm": f"{decoder.LAYER}.self_attn.q_norm",
    "body.layers.*.mix.k_norm": f"{decoder.LAYER}.self_attn.k_norm",
}


class Gemma3(Family):
    """Gemma 3's (the text models) configs and names."""

    model_type = "gemma3_text"
    tensors = NAMES

    def read(self, config: dict[str, Any]) -> LM:
        if config.get("attn_logit_softcapping") is not None:  # transformers reads the field and caps no score
            raise ModelUnsupported(
                "attn_logit_softcapping is not null, which Gemma 3 gives no meaning; nothing was loaded."
            )
        config = decoder.opened(config, (*gemma2.ALSO, "sliding_window_pattern", "rope_local_base_freq"), **DEFAULTS)
        types = decoder.layer_types(config) or gemma2.alternating(config, config["sliding_window_pattern"])
        ropes = {kind: _rope(config, kind) for kind in THETAS}
        return gemma2.model(config, [gemma2.block(config, ropes[kind], kind, qk_norm=True) for kind in types])

    def write(self, spec: LM) -> dict[str, Any] | None:
        config = gemma2.written(spec, self.model_type, "Gemma3ForCausalLM")
        if config is None:
            return None
        del config["rope_theta"]
        config["rope_parameters"] = {kind: {"rope_type": "default", "rope_theta": THETAS[kind][1]} for kind in THETAS}
        for block, kind in zip(decoder.blocks_of(spec), config["layer_types"], strict=True):
            mix = block.mix.attention if isinstance(block.mix, ScoredAttention) else block.mix
            if isinstance(mix, Attention) and isinstance(mix.position, RoPE):
                config["rope_parameters"][kind] = write_rope(mix.position)["rope_parameters"]
        return config


def _rope(config: dict[str, Any], kind: str) -> RoPE:
    field, theta = THETAS[kind]
    given = (config.get("rope_parameters") or {}).get(kind) or {}
    if not isinstance(given, dict):
        raise ModelUnsupported(f"rope_parameters: {kind} = {shown(given)} must be an object; nothing was loaded.")
    given = dict(given)
    if kind == decoder.GLOBAL:
        given |= config.get("rope_scaling") or {}
    given.setdefault("rope_theta", config.get(field) or theta)
    return read_rope(config, given)
