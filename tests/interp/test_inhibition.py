"""Inhibition: a planted negative weight is found and confirmed; excitation and random weights are not inhibition."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import cloche
from cloche import GLU, LM, MLP, Attention, Block, LayerNorm, Stack
from cloche.errors import ClocheError, CorpusEmpty, ModelUnsupported, SiteUnsuitable
from cloche.interp import Materials, find_instrument, inhibition, read_options
from cloche.interp.circuits.inhibiting import chance_of_cosine
from cloche.model import MoE, Network
from cloche.sparse import SAE
from cloche.sparse.saes import Provenance

TEXT = [torch.randint(64, (6, 20), generator=torch.Generator().manual_seed(0))]


def model(map_: Any = None, **options: Any) -> Network:
    block = Block(Attention(4), map_ or MLP("relu", hidden=24), **options)
    return LM(64, 32, Stack(3, block)).build(seed=0)


def plant(net: Network, strength: float) -> None:
    """Unit 3 of layer 0 writes against what unit 5 of layer 2 reads, or for it."""
    with torch.no_grad():
        net.layers[0].map.outer.weight[:, 3] = strength * net.layers[2].map.inner.weight[5]


@pytest.mark.parametrize("kind", ["mlp", "layer norm", "gated"])
def test_planted_inhibition_is_found_and_confirmed(kind: str) -> None:
    net = model(GLU("silu", hidden=24)) if kind == "gated" else model(norm=LayerNorm()) if kind != "mlp" else model()
    plant(net, -4.0)
    found = inhibition(cloche.Glass(net), TEXT)
    first = found.data["pairs"][0]
    assert (first["source"], first["target"]) == ("mlp_act[0] unit 3", "mlp_pre[2] unit 5")
    assert first["cosine"] == pytest.approx(-1.0, abs=0.02) and first["p_weight"] < 1e-6
    assert first["rise"] > 0.5 and first["p"] <= 0.05
    assert found.figures["confirmed"] == 1 and found.null["confirmed"] == 0
    assert found.figures["rise"] > 5 * abs(found.null["rise"]) and found.figures["p"] <= 0.05
    assert found.figures["agreement"] > 0.8  # what the weights say is what the ablation does


@pytest.mark.parametrize("strength", [4.0, 0.0])
def test_excitation_and_random_weights_are_not_inhibition(strength: float) -> None:
    net = model()
    if strength:
        plant(net, strength)
    found = inhibition(cloche.Glass(net), TEXT)
    assert found.figures["confirmed"] == 0
    assert all(row["target"] != "mlp_pre[2] unit 5" or "unit 3" not in row["source"] for row in found.data["pairs"])


def test_units_without_a_path_to_later_ones_inhibit_nothing() -> None:
    net = model()
    with torch.no_grad():
        for layer in net.layers:
            layer.map.outer.weight[:, 1:].zero_()  # one unit writes
            layer.map.outer.weight[:, 0] = layer.map.outer.weight[:, 0].abs()
        net.layers[1].map.inner.weight.zero_()
        net.layers[2].map.inner.weight.zero_()  # and nothing reads
    with pytest.raises(CorpusEmpty, match="No unit"):
        inhibition(cloche.Glass(net), TEXT)


def test_chance_is_that_of_random_directions() -> None:
    draw = torch.Generator().manual_seed(0)
    one, two = (torch.nn.functional.normalize(torch.randn(2000, 50, 8, generator=draw), dim=2) for _ in range(2))
    least = (one * two).sum(2).amin(1)  # of 50 pairs
    assert chance_of_cosine(-0.7, 8, 50) == pytest.approx(float((least <= -0.7).float().mean()), abs=0.03)
    assert chance_of_cosine(0.0, 8, 1) == pytest.approx(0.5, abs=1e-4) and chance_of_cosine(-1.0, 64, 10**9) < 1e-9


def dictionary(site: str, seed: int, width: int = 32) -> SAE:
    return SAE(width, 40, l0=8, seed=seed, trained_on=Provenance(site=site))


@pytest.mark.parametrize("site", ["resid_post[1]", "mlp_in[2]"])
def test_features_inhibit_features_of_a_later_layer(site: str) -> None:
    net = model()
    one, two = dictionary("resid_post[0]", 1), dictionary(site, 2)
    with torch.no_grad():
        one.decoder[7] = -two.encoder[9] / two.encoder[9].norm()
        one.encoder[7] = one.decoder[7]
    found = inhibition(cloche.Glass(net), TEXT, one, two)
    row = next(row for row in found.data["pairs"] if row["cosine"] < -0.9)
    assert row["source"].endswith("feature 7") and row["target"] == f"{site} feature 9"
    assert row["p"] <= 0.05 and row["p_weight"] < 1e-6 and found.figures["confirmed"] >= 1
    assert found.figures["agreement"] > 0.7


def test_bad_input_is_one_sentence() -> None:
    glass = cloche.Glass(model())
    alone = cloche.Glass(LM(64, 32, Stack(1, Block(Attention(4), MLP(hidden=8)))).build(seed=0))
    experts = cloche.Glass(model(MoE(4, 2, GLU(hidden=8))))
    cases: list[tuple[Any, Any, dict[str, Any], type[ClocheError], str]] = [
        (alone, TEXT, {}, ModelUnsupported, "two layers"),
        (experts, TEXT, {}, ModelUnsupported, "neurons"),
        (glass, [TEXT[0][:, :1]], {}, CorpusEmpty, "two tokens"),
        (glass, [TEXT[0][:1, :4]], {}, CorpusEmpty, "5 tokens"),
        (glass, TEXT, {"sae": dictionary("mlp_act[0]", 0, 24)}, SiteUnsuitable, "mlp_act"),
        (glass, TEXT, {"later": dictionary("mlp_act[2]", 0, 24)}, SiteUnsuitable, "mlp_act"),
        (glass, TEXT, {"sae": dictionary("attn_in[0]", 0)}, SiteUnsuitable, "write into"),
        (glass, TEXT, {"sae": dictionary("resid_post[2]", 0)}, ModelUnsupported, "earlier and a later"),
    ]
    for which, text, options, error, message in cases:
        with pytest.raises(error, match=message):
            inhibition(which, text, **options)
    assert read_options(*find_instrument("inhibition"), {"seed": ["3"]}, Materials(glass)) == {"seed": 3}
