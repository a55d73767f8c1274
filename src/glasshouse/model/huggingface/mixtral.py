"""Mixtral checkpoints: a Mistral whose map is a mixture of experts."""

from __future__ import annotations

from typing import Any

from glasshouse.model.bodies import Block
from glasshouse.model.huggingface import decoder
from glasshouse.model.huggingface.rename import Rename, rules
from glasshouse.model.lm import LM
from glasshouse.model.moe import MoE

PREFIX = "model."
DEFAULTS: dict[str, Any] = {
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "sliding_window": None,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 131072,
}
EXPERTS = f"{decoder.LAYER}.block_sparse_moe.experts.*"
NAMES: dict[str, str | tuple[str, ...]] = {
    **decoder.NAMES,
    "body.layers.*.map.router": f"{decoder.LAYER}.block_sparse_moe.gate",
    "body.layers.*.map.experts.*.inner": (f"{EXPERTS}.w1", f"{EXPERTS}.w3"),
    "body.layers.*.map.experts.*.outer": f"{EXPERTS}.w2",
}


def read(config: dict[str, Any]) -> LM:
    """The tree of a Mixtral config. Raises GlasshouseError naming a field we do not implement."""
    config = decoder.opened(config, also=("sliding_window", "num_local_experts", "num_experts_per_tok"), **DEFAULTS)
    mix = decoder.attention(config, mask=decoder.masked(config["sliding_window"]))
    moe = MoE(config["num_local_experts"], config["num_experts_per_tok"], decoder.glu(config))
    return decoder.model(config, Block(mix, moe, decoder.rms(config)))


def write(spec: LM) -> dict[str, Any] | None:
    """The Mixtral config that might describe a tree, None where none can."""
    found = decoder.shaped(spec)
    moe = decoder.blocks_of(spec)[0].map if found else None
    if found is None or not isinstance(moe, MoE):
        return None
    config = decoder.written(spec, "mixtral", "MixtralForCausalLM", *found)
    return config | {
        "sliding_window": decoder.window_of(found[0].mask),
        "num_local_experts": moe.experts,
        "num_experts_per_tok": moe.active,
    }


def names(spec: LM) -> list[Rename]:
    """Where each of our tensors is found in a Mixtral checkpoint."""
    return rules(spec, NAMES)
