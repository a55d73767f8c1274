"""Ranges and gains of activation functions: those of the functions, and those measured on a text."""

from __future__ import annotations

import math

import pytest
import torch

import cloche
from cloche import GLU, LM, MLP, Attention, Block, Stack
from cloche.errors import ModelUnsupported
from cloche.interp import activation_table, instruments
from cloche.model import MoE, Shifted, activation_range


def glass(map_, seed: int = 0) -> cloche.Glass:
    return cloche.Glass(LM(64, 32, Stack(2, Block(Attention(4), map_))).build(seed))


def windows(tokens: int = 2048) -> list[torch.Tensor]:
    ids = torch.randint(64, (tokens // 64, 64), generator=torch.Generator().manual_seed(0))
    return [ids[: len(ids) // 2], ids[len(ids) // 2 :]]


@pytest.mark.parametrize(
    ("which", "low", "high"),
    [
        ("identity", -math.inf, math.inf),
        ("relu2", 0.0, math.inf),
        ("sigmoid", 0.0, 1.0),
        ("silu", -0.27846, math.inf),
        (Shifted("tanh", 3.0), -1.0, 1.0),
    ],
)
def test_the_range_of_a_function(which, low: float, high: float) -> None:
    assert activation_range(which) == pytest.approx((low, high), abs=1e-5)


def test_measured_ranges_are_the_quantiles_of_all_values() -> None:
    subject, held = glass(MLP("gelu")), windows()
    finding = activation_table(subject, held)
    for layer in finding.data["layers"]:
        for site, key in (("mlp_pre", "pre"), ("mlp_act", "act")):
            name = f"{site}[{layer['layer']}]"
            rows = torch.cat([subject.net.run(ids, save=[name])[name][:, 1:].flatten() for ids in held]).double()
            low, high = rows.sort().values[[round(0.001 * len(rows)) - 1, round(0.999 * len(rows)) - 1]].tolist()
            assert layer[key] == pytest.approx([low, high], rel=5e-3)
            assert layer[f"{key}_rms"] == pytest.approx(rows.square().mean().sqrt().item(), rel=1e-5)
        assert layer["act"][0] >= -0.1701  # GELU's minimum
        assert layer["gain"] == pytest.approx(layer["nominal"], rel=0.05)  # at initialisation, as designed


def test_a_known_scale_shows_in_range_and_gain_and_not_in_the_null() -> None:
    subject, held = glass(GLU("silu")), windows()
    plain = activation_table(subject, held)
    with torch.no_grad():
        subject.net.layers[1].map.inner.weight[: 32 * 8 // 3] *= 10  # the gate
    loud = activation_table(subject, held)
    before, after = plain.data["layers"][1], loud.data["layers"][1]
    assert after["pre"] == pytest.approx([10 * x for x in before["pre"]], rel=0.01)
    assert after["gain"] == pytest.approx(2**0.5, rel=0.05)  # as good as a ReLU
    assert loud.null == plain.null
    assert loud.figures["gain"] < plain.figures["gain"] == pytest.approx(plain.null["gain"], rel=0.05)  # type: ignore[index]


def test_a_model_of_experts_alone_is_refused() -> None:
    with pytest.raises(ModelUnsupported, match="neurons"):
        activation_table(glass(MoE(experts=2, active=1, expert=MLP("gelu"))), windows())


def test_it_is_an_instrument() -> None:
    assert "activation-table" in instruments()
    assert "examine" not in instruments()  # the doctor reads a recipe
