"""Networks whose every weight was put there by hand, so that what an instrument must say is known."""

from __future__ import annotations

import torch

from cloche.glass import Glass
from cloche.model import LM, MLP, Attention, Block, Learned, Network, NoNorm, RMSNorm, Stack

TOKENS, LAYERS = 12, 3
TRIGGER, ANSWER, WRITER = 4, 9, 1  # layer WRITER turns the token TRIGGER into ANSWER


def echo() -> Network:
    """Says again the token it reads: the embedding is the identity, every layer writes nothing."""
    block = Block(mix=Attention(heads=1), map=MLP("relu", hidden=TOKENS), norm=RMSNorm())
    net = LM(vocab=TOKENS, width=TOKENS, body=Stack(LAYERS, block)).build(seed=0)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.ndim == 2:
                parameter.zero_()
            else:
                assert bool((parameter == 1).all()), name
        net.embed.weight.copy_(4 * torch.eye(TOKENS))
        net.unembed_weight().copy_(torch.eye(TOKENS))
    return net


def answering() -> Network:
    """`echo`, but the MLP of layer 1 has one unit that sees the token 4 and writes the token 9 over it."""
    net = echo()
    with torch.no_grad():
        inner = net.get_parameter(f"body.layers.{WRITER}.map.inner.weight")
        outer = net.get_parameter(f"body.layers.{WRITER}.map.outer.weight")
        inner[0, TRIGGER] = 1.0
        outer[ANSWER, 0] = 3.0
    return net


def glass(net: Network) -> Glass:
    return Glass(net, None, "hand-built", "step-000001")


def induction(tokens: int = 20, positions: int = 40) -> Network:
    """Attention alone. Layer 0 copies each token to the position after it; layer 1 attends from a token to the positions
    that it was copied to, and writes the token there as the next one. The stream holds the token, the position and the
    token before, each one-hot.
    """
    width = 2 * tokens + positions
    block = Block(mix=Attention(heads=1), map=MLP("relu", hidden=4), norm=NoNorm())
    net = LM(tokens, width, Stack(2, block), norm=NoNorm(), position=Learned(positions)).build(seed=0)
    token, place, before = slice(0, tokens), slice(tokens, tokens + positions), slice(tokens + positions, width)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.embed.weight[:, token] = torch.eye(tokens)
        net.position.weight[:, place] = torch.eye(positions)
        net.unembed_weight()[:, token] = torch.eye(tokens)
        shift = torch.diag(torch.ones(positions - 1), 1)  # position i asks for position i - 1
        for layer, asks, has, matrix, writes in (
            (0, place, place, shift, before),
            (1, token, before, torch.eye(tokens), token),
        ):
            mix = net.layers[layer].mix
            q, k, v = mix.qkv.weight.split(width)
            q[: len(matrix), asks] = 60 * width**0.5 * matrix
            k[: len(matrix), has] = torch.eye(len(matrix))
            v[:tokens, token] = torch.eye(tokens)
            mix.out.weight[writes, :tokens] = 8.0 * layer * torch.eye(tokens) if layer else torch.eye(tokens)
    return net
