"""Llamas whose branches read relu(norm(x) - shift) and whose gates are relu(z - shift): sparse by construction."""

from __future__ import annotations

from typing import Any

from cloche.errors import ModelUnsupported
from cloche.model.bodies.stack import Block
from cloche.model.huggingface.families import decoder
from cloche.model.lm import LM
from cloche.model.maps.activations import Shifted
from cloche.model.maps.mlp import GLU
from cloche.model.mixers.attention import Attention
from cloche.model.norms import RectifiedNorm

NAMES = decoder.NAMES | {
    f"{ours}.inner": decoder.NAMES[ours] for ours in ("body.layers.*.mix_norm", "body.layers.*.map_norm")
}
ACTIVATION = "shifted_relu"
SHIFTS = ("hidden_act_shift", "norm_output_relu_shift")
ALSO = ("attention_bias", "mlp_bias", "note", *SHIFTS)  # note: a remark of the authors


class ShiftedReluLlama(decoder.Decoder):
    """Llamas' with shifted ReLUs configs and names."""

    model_type = "llama_shifted_relu"
    architecture = "ShiftedReluLlamaForCausalLM"
    tensors = NAMES

    def read(self, config: dict[str, Any]) -> LM:
        config = decoder.opened(config, ALSO, {"hidden_act": ACTIVATION}, hidden_act=ACTIVATION)
        for name in SHIFTS:
            if config.get(name) is None:
                raise ModelUnsupported(f"{name} = None must be a number; nothing was loaded.")
        gate, entry = (float(config[name]) for name in SHIFTS)
        block = Block(
            decoder.attention(config, bias=config.get("attention_bias", False)),
            GLU(Shifted("relu", gate), hidden=config["intermediate_size"], bias=config.get("mlp_bias", False)),
            RectifiedNorm(decoder.rms(config), entry),
        )
        return decoder.model(config, block)

    def fields(self, spec: LM, mix: Attention, hidden: Any) -> dict[str, Any] | None:
        entry = decoder.blocks_of(spec)[0].norm
        if not isinstance(hidden.activation, Shifted) or not isinstance(entry, RectifiedNorm):
            return None
        shifts = dict(zip(SHIFTS, (hidden.activation.shift, entry.shift), strict=True))
        return {"hidden_act": ACTIVATION, "attention_bias": mix.bias, "mlp_bias": hidden.bias, **shifts}
