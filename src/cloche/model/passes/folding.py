"""Folds gains of norms and value biases into matrices, so that weights can be compared."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cloche.errors import ModelUnsupported
from cloche.model.bodies.stack import Block, Stack
from cloche.model.declare import Linear
from cloche.model.lm import LM, Unembed
from cloche.model.maps.mlp import GLU, MLP, ClampedGLU
from cloche.model.mixers.attention import Attention
from cloche.model.mixers.scored import ScoredAttention
from cloche.model.norms import LayerNorm, NoNorm, Norm, RMSNorm, ZeroCenteredRMSNorm

if TYPE_CHECKING:
    from cloche.model.network import Network


@torch.no_grad()
def folded(net: Network) -> Network:
    """See `Network.folded`."""
    spec = net.spec.resolved()
    new = _roomy(spec).build(None).to(net.embed.weight.device, net.embed.weight.dtype)
    for parameter in new.parameters():
        parameter.zero_()
    theirs: dict[str, Tensor] = dict(net.named_parameters())
    theirs["unembed.weight"] = net.unembed_weight()
    for name, parameter in new.named_parameters():
        if name in theirs:
            parameter.copy_(theirs[name])
    for block in new.layers:
        part = block.part
        _fold(part.norm, block.mix_norm, block.mix.qkv)
        _fold(part.norm, block.map_norm, block.map.inner)
        if _passes_values(part.mix) and block.mix.qkv.bias is not None:
            _fold_values(block.mix)
    _fold(spec.norm, new.final_norm, new.unembed)  # type: ignore[arg-type]
    return new.train(net.training)


def _roomy(spec: LM) -> LM:
    """The spec with every bias that folding needs, and a head matrix of its own."""
    if type(spec.body) is not Stack or not isinstance(spec.head, Unembed):
        raise ModelUnsupported(
            f"folded() knows a Stack, whose blocks each have weights of their own, with an Unembed head, and this model has "
            f"{type(spec.body).__name__} and {type(spec.head).__name__}; compare its weights as they are."
        )
    head = dataclasses.replace(spec.head, bias=spec.head.bias or _shifts(spec.norm))
    blocks = tuple(_roomy_block(block) for block in spec.body.blocks)
    body = dataclasses.replace(spec.body, block=blocks if len(blocks) > 1 else blocks[0])
    return dataclasses.replace(spec, body=body, head=head, tied=False)


def _roomy_block(block: Block) -> Block:
    if type(block.mix) not in (Attention, ScoredAttention) or type(block.map) not in (MLP, GLU, ClampedGLU):
        raise ModelUnsupported(
            f"folded() knows attention with an MLP or a GLU, and a block here has {type(block.mix).__name__} and "
            f"{type(block.map).__name__}."
        )
    mix: Any = block.mix
    attention = mix.attention if isinstance(mix, ScoredAttention) else mix
    bias = attention.bias or _shifts(block.norm)
    out_bias = bool(attention.out_bias) or (bias and _passes_values(mix))
    attention = dataclasses.replace(attention, bias=bias, out_bias=out_bias)
    mix = dataclasses.replace(mix, attention=attention) if isinstance(mix, ScoredAttention) else attention
    mapping: Any = block.map
    mapping = dataclasses.replace(mapping, bias=mapping.bias or _shifts(block.norm))
    return dataclasses.replace(block, mix=mix, map=mapping)


def _passes_values(mix: Any) -> bool:
    """Whether its pattern's rows sum to one; with a sink they do not."""
    return not (isinstance(mix, ScoredAttention) and mix.sinks)


def _shifts(norm: Norm) -> bool:
    return isinstance(norm, LayerNorm) and norm.bias


def _fold(part: Norm, norm: nn.Module, reader: Linear) -> None:
    """W (gain n + bias) = (W gain) n + W bias: the norm is left with a gain of one."""
    if isinstance(part, NoNorm):
        return
    if not isinstance(part, RMSNorm | LayerNorm):
        raise ModelUnsupported(f"folded() knows RMSNorm and LayerNorm, and this model has {type(part).__name__}.")
    weight: Any = norm.weight
    one = 0.0 if isinstance(part, ZeroCenteredRMSNorm) else 1.0
    matrix, gain = reader.weight.double(), weight.double() + (1.0 - one)
    if _shifts(part):
        shift: Any = norm.bias
        reader.bias.add_((matrix @ shift.double()).to(shift.dtype))  # type: ignore[union-attr]
        shift.zero_()
    reader.weight.copy_(matrix * gain)
    weight.fill_(one)


def _fold_values(mix: Any) -> None:
    """A pattern's rows sum to one, so a value bias passes through attention unchanged: it becomes a bias of the output."""
    bias = mix.qkv.bias[-mix.kv_heads * mix.size :]
    each = bias.view(mix.kv_heads, mix.size).repeat_interleave(mix.heads // mix.kv_heads, 0).flatten()
    mix.out.bias.add_((mix.out.weight.double() @ each.double()).to(bias.dtype))
    bias.zero_()
