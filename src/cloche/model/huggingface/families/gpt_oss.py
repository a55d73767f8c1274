"""GPT-OSS checkpoints, in MXFP4 or not: attention with sinks, every other layer local, and clamped experts with biases."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from cloche.errors import ModelUnsupported, shown
from cloche.model.bodies.stack import Block
from cloche.model.huggingface.families import decoder, gemma2
from cloche.model.huggingface.families.family import Family
from cloche.model.huggingface.rename import Names, Rename
from cloche.model.huggingface.ropes import parameters_of, read_rope
from cloche.model.lm import LM
from cloche.model.maps.mlp import GLU, ClampedGLU
from cloche.model.maps.moe import MoE
from cloche.model.mixers.scored import ScoredAttention

ALSO = (
    "attention_bias",
    "layer_types",
    "num_experts_per_tok",
    "num_local_experts",
    "quantization_config",  # the tensors themselves say which are packed
    "sliding_window",
    "swiglu_alpha",
    "swiglu_limit",
    "experts_per_token",  # OpenAI's files say these two once more; transformers reads neither
    "initial_context_length",
)
DEFAULTS: dict[str, Any] = {
    "attention_bias": True,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "num_experts_per_tok": 4,
    "num_key_value_heads": 8,
    "num_local_experts": 128,
    "rms_norm_eps": 1e-5,
    "sliding_window": 128,
    "swiglu_alpha": 1.702,
    "swiglu_limit": 7.0,
}
ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
NAMES: Names = {
    **decoder.NAMES,
    "body.layers.*.mix": f"{decoder.LAYER}.self_attn",  # the sinks
    "body.layers.*.map.router": f"{decoder.LAYER}.mlp.router",
}
EXPERT = re.compile(r"body\.layers\.(\d+)\.map\.experts\.(\d+)\.(inner|outer)\.(weight|bias)")


class GPTOSS(Family):
    """GPT-OSS's configs and names."""

    model_type = "gpt_oss"
    tensors = NAMES

    def read(self, config: dict[str, Any]) -> LM:
        config = decoder.opened(config, also=ALSO, **DEFAULTS)
        packing = config.get("quantization_config")
        if packing and packing.get("quant_method") != "mxfp4":
            raise ModelUnsupported(
                f"quantization_config = {shown(packing)} is not supported (only mxfp4 is); nothing was loaded."
            )
        rope, norm = read_rope(config, parameters_of(config) or ROPE, theta=150_000.0), decoder.rms(config)
        expert = ClampedGLU(config["intermediate_size"], True, config["swiglu_alpha"], config["swiglu_limit"])
        moe = MoE(config["num_local_experts"], config["num_experts_per_tok"], expert, router_bias=True)
        blocks = []
        for kind in decoder.layer_types(config) or gemma2.alternating(config, 2):
            mask = decoder.masked(config["sliding_window"] if kind == decoder.LOCAL else None)
            mix = decoder.attention(config, rope, mask=mask, bias=config["attention_bias"])
            blocks.append(Block(ScoredAttention(mix, sinks=True), moe, norm))
        return decoder.model(config, blocks)

    def write(self, spec: LM) -> dict[str, Any] | None:
        found, blocks = decoder.shaped(spec, ClampedGLU), decoder.blocks_of(spec)
        moe = blocks[0].map if found else None
        if found is None or not isinstance(moe, MoE):
            return None
        mix, expert, norm = found
        glu = GLU(hidden=expert.resolved(spec.width).hidden)
        return decoder.written(spec, self.model_type, "GptOssForCausalLM", mix, glu, norm) | {
            "attention_bias": mix.bias,
            **decoder.windows_of(spec, 128),
            "num_local_experts": moe.experts,
            "num_experts_per_tok": moe.active,
            "swiglu_alpha": expert.slope,
            "swiglu_limit": expert.limit,
        }

    def names(self, spec: LM) -> list[Rename]:
        found = []
        for rule in super().names(spec):
            if match := EXPERT.fullmatch(rule.ours):
                layer, item, side, kind = match.groups()
                name = f"model.layers.{layer}.mlp.experts.{'gate_up' if side == 'inner' else 'down'}_proj"
                rule = Rename(
                    rule.ours, (name + ("_bias" if kind == "bias" else ""),), kind == "weight", item=int(item)
                )
                if side == "inner":
                    rule = dataclasses.replace(rule, interleaved=_hidden(spec), blocks=2)
            found.append(rule)
        return found


def _hidden(spec: LM) -> int:
    moe = decoder.blocks_of(spec)[0].map
    assert isinstance(moe, MoE) and isinstance(moe.expert, ClampedGLU)
    hidden = moe.expert.resolved(spec.width).hidden
    assert hidden is not None
    return hidden
