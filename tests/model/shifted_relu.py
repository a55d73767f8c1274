"""transformers' Llama with its two changes made to its modules: the oracle of a family that transformers does not have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

KIND = "llama_shifted_relu"


class ShiftedReluLlamaConfig(LlamaConfig):
    model_type = KIND
    hidden_act_shift: float = 0.25
    norm_output_relu_shift: float = 1.0
    hidden_act: str = "shifted_relu"


class _Gate(nn.Module):
    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.shift).clamp(min=0)


class _Entry(LlamaRMSNorm):
    shift: float

    def forward(self, x: Tensor) -> Tensor:
        return (super().forward(x) - self.shift).clamp(min=0)


class ShiftedReluLlamaForCausalLM(LlamaForCausalLM):
    config_class = ShiftedReluLlamaConfig

    def __init__(self, config: Any) -> None:
        known = config.hidden_act
        config.hidden_act = "relu"  # transformers has no name for ours
        super().__init__(config)
        config.hidden_act = known
        for layer in self.model.layers:
            layer.mlp.act_fn = _Gate(config.hidden_act_shift)
            for norm in (layer.input_layernorm, layer.post_attention_layernorm):
                norm.__class__, norm.shift = _Entry, config.norm_output_relu_shift


AutoConfig.register(KIND, ShiftedReluLlamaConfig)
AutoModelForCausalLM.register(ShiftedReluLlamaConfig, ShiftedReluLlamaForCausalLM)


def dense_logits(tensors: dict[str, Tensor], config: dict[str, Any], ids: Tensor) -> Tensor:
    """[position, vocab] of ids [position], from a folder's tensors and config alone, in float64: no part of the package."""
    heads, size, count = config["num_attention_heads"], config["head_dim"], len(ids)
    w = {name.removeprefix("model."): value.double() for name, value in tensors.items()}
    speed = config["rope_theta"] ** -(torch.arange(size // 2).double() / (size // 2))
    turn = torch.polar(torch.ones(()).double(), torch.arange(count)[:, None] * speed)  # [position, size / 2]

    def normed(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + config["rms_norm_eps"]).sqrt() * w[f"{name}.weight"]

    def rectified(x: Tensor, shift: str) -> Tensor:
        return torch.where(x > config[shift], x - config[shift], 0.0)

    def turned(x: Tensor) -> Tensor:  # [head, position, size]
        pairs = torch.complex(x[..., : size // 2], x[..., size // 2 :]) * turn
        return torch.cat([pairs.real, pairs.imag], -1)

    x = w["embed_tokens.weight"][ids]
    for i in range(config["num_hidden_layers"]):
        at = f"layers.{i}."
        entry = rectified(normed(x, f"{at}input_layernorm"), "norm_output_relu_shift")
        q, k, v = (
            (entry @ w[f"{at}self_attn.{n}_proj.weight"].T).view(count, heads, size).transpose(0, 1) for n in "qkv"
        )
        scores = turned(q) @ turned(k).mT / size**0.5
        scores = scores.masked_fill(torch.ones(count, count).triu(1).bool(), -torch.inf)
        z = (scores.softmax(-1) @ v).transpose(0, 1).reshape(count, -1)
        x = x + z @ w[f"{at}self_attn.o_proj.weight"].T
        entry = rectified(normed(x, f"{at}post_attention_layernorm"), "norm_output_relu_shift")
        gate = rectified(entry @ w[f"{at}mlp.gate_proj.weight"].T, "hidden_act_shift")
        x = x + gate * (entry @ w[f"{at}mlp.up_proj.weight"].T) @ w[f"{at}mlp.down_proj.weight"].T
    return normed(x, "norm") @ w["embed_tokens.weight"].T
