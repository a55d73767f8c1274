"""Networks whose every weight was put there by hand, so that what an instrument must say is known."""

from __future__ import annotations

import torch

from cloche.glass import Glass
from cloche.model import LM, MLP, Attention, Block, Network, RMSNorm, Stack

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
