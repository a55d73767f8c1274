"""Small models of many shapes: what the laws are tested over."""

from __future__ import annotations

import dataclasses
import random
import re

import torch

from cloche.model import (
    GLU,
    LM,
    MLP,
    AllHeads,
    Attention,
    Block,
    Causal,
    ClampedGLU,
    DynamicScaling,
    LayerNorm,
    Learned,
    LinearScaling,
    Llama3Scaling,
    LongRoPE,
    MoE,
    Network,
    NoNorm,
    NoPosition,
    ParallelBlock,
    RectifiedNorm,
    RMSNorm,
    RoPE,
    ScoredAttention,
    Shifted,
    Stack,
    Unembed,
    Window,
    YaRN,
    ZeroCenteredRMSNorm,
)
from cloche.model.maps.activations import ACTIVATIONS

CHOICES = {
    "heads": [(4, 4), (4, 2), (4, 1), (3, 1)],
    "position": ["rope", "none", "learned", "rope and learned"],
    "mask": [Causal(), Causal() & Window(3), Window(4) & Causal(), (Causal() & Window(2)) | (Causal() & Window(5))],
    "map": [*(MLP(name, hidden=20) for name in ACTIVATIONS), *(GLU(name, hidden=20) for name in ACTIVATIONS)],
    "norm": [RMSNorm(), RMSNorm(eps=1e-3), LayerNorm(), LayerNorm(bias=False)],
    "tied": [True, False],
    "bias": ["none", "mixer", "all"],
    "qk_norm": [None, None, RMSNorm(), LayerNorm()],
}
WIDTH, VOCAB, LENGTH = 12, 17, 16


# What the families of Hugging Face add, for the numbers from PLAIN on.
PLAIN = 32
SCALINGS = [
    LinearScaling(2.0),
    DynamicScaling(3.0, LENGTH),  # beyond its length it is not causal, as its docstring says
    Llama3Scaling(4.0, 1.0, 4.0, 9),
    YaRN(3.0, 8),
    LongRoPE((1.0, 1.5, 2.0), (2.0, 3.0, 5.5), LENGTH, 1.2),
    None,
]
ADDED = {
    "block": [Block, ParallelBlock],
    "norms": [
        (NoNorm(), RMSNorm()),
        (RMSNorm(), RMSNorm()),
        (ZeroCenteredRMSNorm(), ZeroCenteredRMSNorm()),
        (LayerNorm(), None),
        (RectifiedNorm(RMSNorm(), 0.5), None),
    ],
    "scores": [
        {},
        {"scale": 0.3},
        {"cap": 1.5},
        {"sinks": True},
        {"scale": 0.7, "cap": 2.0, "sinks": True},
    ],
    "qk_norm": [None, RMSNorm(), AllHeads(RMSNorm()), AllHeads(LayerNorm()), ZeroCenteredRMSNorm()],
    "map": [
        ClampedGLU(hidden=11, bias=True, limit=0.5),
        MoE(4, 2, GLU(hidden=10)),
        MoE(3, 1, MLP("relu2", hidden=9, bias=True), normalise=False, router_bias=True),
        GLU(Shifted("relu", 0.25), hidden=10),
        MLP(Shifted("silu", -0.5), hidden=9),
        None,
    ],
    "head": [Unembed(), Unembed(cap=2.0)],
    "embed_scale": [None, 3.0],
    "share": [None, 0.7],
}


def combination(number: int) -> LM:
    """The model of this number: every choice drawn at random, the first ones so that every map is met."""
    return plain(number) if number < PLAIN else extended(number)


def extended(number: int) -> LM:
    """A plain model with some of what the families of Hugging Face add."""
    draw = random.Random(number)
    pick = {name: options[number % len(options)] for name, options in ADDED.items()} | {
        name: draw.choice(options) for name, options in ADDED.items() if draw.random() < 0.7
    }
    spec = plain(number - PLAIN)
    blocks = []
    for block in spec.body.blocks:
        mix = dataclasses.replace(block.mix, qk_norm=pick["qk_norm"])
        if isinstance(mix.position, RoPE):
            scaling = SCALINGS[number % len(SCALINGS)]
            share = None if isinstance(scaling, LongRoPE) else pick["share"]
            mix = dataclasses.replace(mix, head_size=6, position=RoPE(100.0, scaling, share))
        norm, post = pick["norms"]
        mapping = pick["map"] or block.map
        blocks.append(
            pick["block"](ScoredAttention(mix, **pick["scores"]) if pick["scores"] else mix, mapping, norm, post)
        )
    head = dataclasses.replace(pick["head"], bias=spec.head.bias)
    body = Stack(3, tuple(blocks) if len(blocks) > 1 else blocks[0])
    return dataclasses.replace(
        spec, body=body, norm=pick["norms"][1] or spec.norm, head=head, embed_scale=pick["embed_scale"]
    )


def plain(number: int) -> LM:
    """A Llama, a GPT-2 or what lies between."""
    draw = random.Random(number)
    pick = {name: draw.choice(options) for name, options in CHOICES.items()}
    pick["map"] = CHOICES["map"][number % len(CHOICES["map"])]
    (heads, kv_heads), position, bias = pick["heads"], pick["position"], pick["bias"]
    attention = Attention(
        heads=heads,
        kv_heads=kv_heads,
        head_size=draw.choice([2, 6] if "rope" in position else [None, 5, 7]),
        position=RoPE(theta=100) if "rope" in position else NoPosition(),
        mask=pick["mask"],
        bias=bias != "none",
        out_bias=draw.choice([None, False, True]),
        qk_norm=pick["qk_norm"],
    )
    mapping = type(pick["map"])(pick["map"].activation, pick["map"].hidden, bias=bias == "all")
    block = Block(mix=attention, map=mapping, norm=pick["norm"])
    other = Block(mix=Attention(heads=2, position=attention.position), map=MLP("relu"), norm=RMSNorm())
    return LM(
        vocab=VOCAB,
        width=WIDTH,
        body=Stack(3, (block, other) if draw.random() < 0.3 else block),
        norm=pick["norm"],
        head=Unembed(bias=bias == "all"),
        tied=pick["tied"],
        position=Learned(LENGTH) if "learned" in position else None,
    )


def name(number: int) -> str:
    """What tells the model of this number from the others: "28 heads 4 of 4, no position, window 3, GLU silu, RMSNorm"."""
    spec = combination(number)
    block = spec.body.blocks[0]
    mix = block.mix if isinstance(block.mix, Attention) else block.mix.attention
    mapping = f"{type(block.map).__name__} {getattr(block.map, 'activation', '')}".replace("Shifted", "shifted")
    position = " and ".join(_word(p) for p in (mix.position, spec.position) if p not in (None, NoPosition()))
    words = [
        f"{number} heads {mix.heads} of {mix.kv_heads or mix.heads}",
        position or "no position",
        " or ".join(f"window {n}" for n in re.findall(r"Window\(size=(\d+)\)", repr(mix.mask))) or "causal",
        re.sub(r"[^\w ]+", " ", mapping).strip(),
        _word(block.norm),
        *(["scores"] if isinstance(block.mix, ScoredAttention) else []),
        *(["parallel"] if isinstance(block, ParallelBlock) else []),
    ]
    return ", ".join(words)


def _word(part: object) -> str:
    scaling = getattr(part, "scaling", None)
    return type(part).__name__ + (f" {type(scaling).__name__}" if scaling else "")


class Numbered(int):
    """A combination's number, which pytest shows as the combination's name."""

    def __str__(self) -> str:
        return name(int(self))


NUMBERS = tuple(map(Numbered, range(PLAIN + 24)))


def lively(spec: LM, seed: int = 0) -> Network:
    """Built, with its gains and biases drawn too, so that none of them is at a value that hides a mistake."""
    net = spec.build(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in net.groups()["vector"]:
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return net


def random_ids(batch: int, length: int, vocab: int = VOCAB, seed: int = 0) -> torch.Tensor:
    return torch.randint(vocab, (batch, length), generator=torch.Generator().manual_seed(seed))


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Equal in shape, and to `tolerance` of the larger of one and the values' own scale."""
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, equal_nan=False)
