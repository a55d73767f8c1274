"""`difficulty`: a neuron that counts positions is found and matters; shuffled levels find nothing; length can be taken out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
import torch

import cloche
from cloche import LM, MLP, Attention, Block, Learned, Stack
from cloche.errors import InstrumentOption
from cloche.interp import difficulty
from cloche.interp.probing.levels import follows
from cloche.model import NoNorm
from cloche.tasks import Add, Task
from cloche.tasks.graph import Rule

WIDTH, HIDDEN, UNIT = 32, 8, 5


@dataclass(frozen=True)
class Last(Task):
    """Repeat the last letter: one more letter, or two, at each level."""

    ragged: bool = False

    def draw(self, level: int, rng: Random) -> Mapping[str, Any]:
        more = rng.randrange(3) if self.ragged else 0
        return {f"c{i}": rng.choice("abcdefgh") for i in range(2 * level + more)}

    def template(self, values: Mapping[str, Any]) -> str:
        return "".join(f"{{{name}}}" for name in values) + "="

    def rules(self, values: Mapping[str, Any]) -> Mapping[str, Rule]:
        last = list(values)[-1]
        return {"answer": Rule((last,), lambda letter: letter)}

    def swap(self, values: Mapping[str, Any], name: str, rng: Random) -> Any:
        return rng.choice("abcdefgh")

    def isomorphic(self, values: Mapping[str, Any], rng: Random) -> Mapping[str, Any]:
        return values

    def choices(self, values: Mapping[str, Any]) -> list[str]:
        return list("abcdefgh")


def counting(scale: float = 1.0) -> cloche.Glass:
    """Neuron UNIT of layer 1 is the position; it takes logits from the letters. Nothing else in the model depends on it."""
    block = Block(Attention(2), MLP("relu", hidden=HIDDEN), norm=NoNorm())
    net = LM(259, WIDTH, Stack(2, block), norm=NoNorm(), position=Learned(64)).build(seed=0)
    with torch.no_grad():
        for layer in net.layers:
            layer.mix.qkv.weight.zero_()
            layer.map.inner.weight.zero_()
            layer.map.outer.weight.zero_()
        net.embed.weight[:, 0] = 0
        net.unembed.weight[:, 0] = 0
        net.position.weight.zero_()
        net.position.weight[:, 0] = torch.arange(64.0)
        net.layers[1].map.inner.weight[UNIT, 0] = scale
        net.layers[1].map.outer.weight[1, UNIT] = 0.2
        net.embed.weight[:, 1] = 0
        net.unembed.weight[:, 1] = 0
        net.unembed.weight[ord("a") : ord("i"), 1] = -1
    return cloche.Glass(net, cloche.train_bpe(["a"], vocab=259))


def test_the_neuron_that_follows_the_level_is_found_and_matters() -> None:
    found = difficulty(counting(), Last(), levels=[1, 2, 4], items=8)
    name = f"mlp_act[1] unit {UNIT}"
    r, p = found.arrays["r"], found.arrays["p"]
    hit = found.data["units"].index(name)
    assert r[hit] == pytest.approx(1.0) and p[hit] == pytest.approx(0.001)
    hits = {unit for unit, each in zip(found.data["units"], p, strict=True) if each <= 0.05}
    assert hits == {
        name,
        "norm of mlp_out[1]",
        "norm of resid_post[0]",
        "norm of resid_post[1]",
        "entropy of the prediction",
    }
    assert found.figures["hits"] == len(hits) and abs(found.null["largest"]) < 0.6
    (row,) = [row for row in found.data["ablated"] if row["unit"] == name]
    # At its mean the letters gain at the lower levels what the position had left them, and lose it at the upper.
    assert row["lower"] > 0.1 > -0.1 > row["upper"]
    assert row["beside_lower"] == pytest.approx(0, abs=1e-5) == row["beside_upper"]


def test_without_length_nothing_follows_what_is_length() -> None:
    ragged = difficulty(counting(), Last(ragged=True), levels=[1, 2, 4], items=8, without_length=True)
    hits = {unit for unit, p in zip(ragged.data["units"], ragged.arrays["p"], strict=True) if p <= 0.05}
    assert hits <= {"entropy of the prediction"}  # which depends on the length, but not linearly
    with pytest.raises(InstrumentOption, match="lengths say what level"):
        difficulty(counting(), Last(), levels=[1, 2], items=4, without_length=True)


def test_shuffled_levels_find_something_in_one_of_twenty() -> None:
    draw = torch.Generator().manual_seed(0)
    hits = planted = 0
    for seed in range(100):
        x = torch.randn(24, 40, generator=draw)
        level = torch.arange(24).remainder(3).double()
        hits += bool((follows(x, level, None, seed)[1] <= 0.05).any())
        x[:, 7] += 1.5 * level  # a unit that moves by 1.5 standard deviations per level
        planted += bool(follows(x, level, None, seed)[1][7] <= 0.05)
    assert hits <= 9 and planted >= 90


def test_a_constant_column_follows_nothing() -> None:
    level = torch.tensor([1.0, 1.0, 2.0, 2.0, 3.0, 3.0])
    r, p, _ = follows(torch.stack([torch.full((6,), 1e4), level * 2], 1), level, None, 0)
    assert r[0] == 0 and p[0] == 1 and r[1] == pytest.approx(1)


def test_one_level_is_refused() -> None:
    with pytest.raises(InstrumentOption, match="at least two levels"):
        difficulty(counting(), Add(), levels=[2])
