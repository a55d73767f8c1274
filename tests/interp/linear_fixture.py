"""A network that is linear in its embeddings, on which all attributions must agree: no norms, identity activations, and
attention patterns that depend on positions alone."""

from __future__ import annotations

import torch

import cloche
from cloche import LM, MLP, Attention, Block, RoPE, Stack
from cloche.model import NoNorm

VOCAB, WIDTH = 259, 32


def linear_glass(layers: int = 2, seed: int = 2) -> cloche.Glass:
    """Queries and keys are biases, turned by RoPE: each head has a lower-triangular pattern of its own."""
    block = Block(Attention(4, bias=True, position=RoPE()), MLP("identity", hidden=WIDTH), norm=NoNorm())
    net = LM(VOCAB, WIDTH, Stack(layers, block), norm=NoNorm()).build(seed=seed).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in net.layers:
            layer.mix.qkv.weight[: 2 * WIDTH] = 0
            layer.mix.qkv.bias[: 2 * WIDTH] = 2 * torch.randn(2 * WIDTH, generator=generator)
    return cloche.Glass(net, cloche.train_bpe(["a"], vocab=VOCAB))
