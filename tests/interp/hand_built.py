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


LETTERS = "abcdefgh"


def in_context(ids: dict[str, int], vocab: int, positions: int = 32) -> Network:
    """Answers "a:" with the same letter or the next one, as the examples before it do: "c:c", or "c:d".

    In layer 0 the heads copy the token before (1) and the one before that (0), and the MLP marks answers that are the same
    letter or the next. In layer 1 head 0 averages these marks over all answers, head 1 writes nothing, and the MLP answers.
    `ids`: the token of each letter and of ":".
    """
    known = [*LETTERS, ":"]
    sizes = {"token": 9, "place": positions, "before": 9, "before_that": 9, "mark": 2, "rule": 2, "one": 1, "answer": 8}
    at, width = dict[str, int](), 0
    for name, size in sizes.items():
        at[name], width = width, width + size
    width += width % 2
    block = Block(mix=Attention(heads=2), map=MLP("relu", hidden=16), norm=NoNorm())
    net = LM(vocab, width, Stack(2, block), norm=NoNorm(), position=Learned(positions)).build(seed=0)
    size, letters = width // 2, range(len(LETTERS))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.embed.weight[:, at["one"]] = 1.0
        for i, letter in enumerate(known):
            net.embed.weight[ids[letter], at["token"] + i] = 1.0
        for i in letters:
            net.unembed_weight()[ids[LETTERS[i]], at["answer"] + i] = 8.0
        net.position.weight[:, at["place"] : at["before"]] = torch.eye(positions)
        first, second = net.layers[0], net.layers[1]
        q, k, v = first.mix.qkv.weight.split(width)
        for head, back, to in ((0, 2, "before_that"), (1, 1, "before")):
            rows = slice(head * size, head * size + positions)
            q[rows, at["place"] : at["before"]] = 60 * size**0.5 * torch.diag(torch.ones(positions - back), back)
            k[rows, at["place"] : at["before"]] = torch.eye(positions)
            v[head * size : head * size + 9, at["token"] : at["place"]] = torch.eye(9)
            first.mix.out.weight[at[to] : at[to] + 9, head * size : head * size + 9] = torch.eye(9)
        q, k, v = second.mix.qkv.weight.split(width)
        q[0, at["one"]], k[0, at["before"] + 8] = 60 * size**0.5, 1.0  # answers come after ":"
        v[:2, at["mark"] : at["rule"]] = torch.eye(2)
        v[size : size + 2, at["mark"] : at["rule"]] = torch.eye(2)  # of the head that writes nothing
        second.mix.out.weight[at["rule"] : at["one"], :2] = torch.eye(2)
        for rule in (0, 1):
            for i in letters:
                unit, follows = 8 * rule + i, (i + rule) % 8
                marks, answers = first.map.inner.weight[unit], second.map.inner.weight[unit]
                marks[at["token"] + follows] = marks[at["before_that"] + i] = marks[at["before"] + 8] = 1.0
                answers[at["token"] + 8] = answers[at["before"] + i] = answers[at["rule"] + rule] = 1.0
                marks[at["one"]] = answers[at["one"]] = -2.0
                first.map.outer.weight[at["mark"] + rule, unit] = 1.0
                second.map.outer.weight[at["answer"] + follows, unit] = 1.0
    return net
