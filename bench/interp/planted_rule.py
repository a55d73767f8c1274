"""A model that reads a rule from the examples in its prompt, every weight put there by hand, and the task with these rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import torch

import cloche
from cloche import LM, MLP, Attention, Block, Learned, Stack
from cloche.model import Network, NoNorm
from cloche.tasks import Rule, Task
from cloche.tasks.task import Values

LETTERS, VOCAB = "abcdefgh", 259


@dataclass(frozen=True)
class Successor(Task):
    """The letter `by` places after another: 0 is the same letter."""

    by: int = 0

    levels = range(1, 2)

    def draw(self, level: int, rng: Random) -> Values:
        return {"letter": rng.choice(LETTERS)}

    def template(self, values: Values) -> str:
        return "{letter}:"

    def rules(self, values: Values) -> Mapping[str, Rule]:
        return {"answer": Rule(("letter",), lambda letter: LETTERS[(ord(letter) - 97 + self.by) % 8])}

    def swap(self, values: Values, name: str, rng: Random) -> Any:
        return rng.choice(LETTERS)

    def isomorphic(self, values: Values, rng: Random) -> Values:
        return values

    def choices(self, values: Values) -> list[str]:
        return list(LETTERS)


def in_context(tokenizer: cloche.Tokenizer, seed: int = 0, noise: float = 0.0, positions: int = 32) -> Network:
    """Answers "a:" with the same letter or the next one, as the examples before it do: "c:c", or "c:d".

    In layer 0 the heads copy the token before (1) and the one before that (0), and the MLP marks answers that are the same
    letter or the next. In layer 1 head 0 averages these marks over all answers, head 1 writes nothing, and the MLP answers.
    `noise`: standard deviation of what is added to every weight.
    """
    known = [*LETTERS, ":"]
    ids = {letter: tokenizer.encode(letter)[0] for letter in known}
    sizes = {"token": 9, "place": positions, "before": 9, "before_that": 9, "mark": 2, "rule": 2, "one": 1, "answer": 8}
    at, width = dict[str, int](), 0
    for name, size in sizes.items():
        at[name], width = width, width + size
    width += width % 2
    block = Block(mix=Attention(heads=2), map=MLP("relu", hidden=16), norm=NoNorm())
    net = LM(VOCAB, width, Stack(2, block), norm=NoNorm(), position=Learned(positions)).build(seed=0)
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
        generator = torch.Generator().manual_seed(seed)
        for parameter in net.parameters():
            parameter.add_(noise * torch.randn(parameter.shape, generator=generator))
    return net
