"""Folded weights compute the same function, and leave nothing in the norms and value biases."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from combinations import NUMBERS, VOCAB, WIDTH, close, combination, lively, random_ids

from cloche.errors import ClocheError
from cloche.model import (
    LM,
    MLP,
    Attention,
    Block,
    MoE,
    NoNorm,
    ParallelBlock,
    RectifiedNorm,
    RMSNorm,
    Stack,
    ZeroCenteredRMSNorm,
)

IDS = random_ids(3, 8)
PAD = [2, 0, 4]


def _foldable(number: int) -> bool:
    blocks = combination(number).body.blocks
    return not any(isinstance(b.map, MoE) or isinstance(b.norm, RectifiedNorm) for b in blocks)


FOLDABLE = [n for n in NUMBERS if _foldable(n)]


@pytest.mark.parametrize("number", FOLDABLE)
def test_the_same_logits_from_weights_that_stand_alone(number: int) -> None:
    net = lively(combination(number))
    before = {name: p.clone() for name, p in net.named_parameters()}
    view = net.folded()
    close(view(IDS), net(IDS))
    pad = torch.arange(8)[None] >= torch.tensor(PAD)[:, None]
    close(view.run(IDS, pad=PAD).logits[pad], net.run(IDS, pad=PAD).logits[pad])
    assert all(torch.equal(before[name], p) for name, p in net.named_parameters())
    with torch.no_grad():
        for p in view.parameters():
            p.mul_(2)
    close(net(IDS), net.folded()(IDS))  # nothing is shared


@pytest.mark.parametrize("number", FOLDABLE)
def test_nothing_is_left_in_norms_and_value_biases(number: int) -> None:
    view = lively(combination(number)).folded()
    norms = [view.final_norm, *(n for block in view.layers for n in (block.mix_norm, block.map_norm))]
    for norm in norms:
        for name, parameter in norm.named_parameters():
            one = name == "weight" and "ZeroCentered" not in type(norm).__name__
            assert (parameter == float(one)).all()
    for block in view.layers:
        if block.mix.qkv.bias is not None and not getattr(block.part.mix, "sinks", False):
            assert (block.mix.qkv.bias[-block.mix.kv_heads * block.mix.size :] == 0).all()
    assert view.unembed_weight() is not view.embed.weight


def test_the_stream_and_the_pattern_are_the_same() -> None:
    net = lively(combination(5))
    view = net.folded()
    save = ["resid_pre.all", "resid_post.all", "pattern.all", "mlp_act.all", "attn_out.all", "logits"]
    ours, theirs = net.run(IDS, save=save), view.run(IDS, save=save)
    for name in save:
        close(ours[name], theirs[name])


@pytest.mark.parametrize("kind", [Block, ParallelBlock])
def test_other_norms_and_blocks(kind: type[Block]) -> None:
    block = kind(mix=Attention(heads=2, bias=True), map=MLP(), norm=ZeroCenteredRMSNorm(), post=RMSNorm())
    net = lively(LM(VOCAB, WIDTH, Stack(2, (block, dataclasses.replace(block, norm=NoNorm()))), tied=True))
    view = net.folded()
    close(view(IDS), net(IDS))
    assert (view.layers[0].mix_norm.weight == 0).all()


def test_what_cannot_be_folded_is_said() -> None:
    from test_parts import Doubled

    net = LM(VOCAB, WIDTH, Stack(1, Block(mix=Attention(heads=2), map=Doubled()))).build()
    with pytest.raises(ClocheError, match="has Attention and Doubled"):
        net.folded()
    net = LM(VOCAB, WIDTH, Stack(1, Block(Attention(heads=2), MLP(), RectifiedNorm()))).build()
    with pytest.raises(ClocheError, match="this model has RectifiedNorm"):
        net.folded()
