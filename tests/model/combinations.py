"""Small models of many shapes: what the laws are tested over."""

from __future__ import annotations

import random

import torch

from glasshouse.model import (
    GLU,
    LM,
    MLP,
    Attention,
    Block,
    Causal,
    LayerNorm,
    Learned,
    Network,
    NoPosition,
    RMSNorm,
    RoPE,
    Stack,
    Unembed,
    Window,
)
from glasshouse.model.activations import ACTIVATIONS

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


def combination(number: int) -> LM:
    """The model of this number: every choice drawn at random, the first ones so that every map is met."""
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


NUMBERS = range(32)


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
