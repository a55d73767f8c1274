"""Effects of neurons and features: exact on a linear model, of the sum of their site's, and seen to fail at saturated units."""

from __future__ import annotations

import pytest
import torch

import cloche
import third_party
from cloche import GLU, LM, MLP, Attention, Block, RoPE, Stack
from cloche.errors import DictionaryMismatch
from cloche.interp import attribution_patching, relevance_patching, unit_patching
from cloche.model import NoNorm
from cloche.sparse import SAE
from cloche.sparse.saes import Provenance, Wiring
from cloche.tasks import Add, PromptPair

VOCAB = 259
PAIR = PromptPair("the ab", "the cb", "x", "y")


@pytest.fixture(scope="module")
def tokenizer() -> cloche.Tokenizer:
    return cloche.train_bpe(["a"], vocab=VOCAB)


@pytest.fixture(scope="module")
def glass(tokenizer: cloche.Tokenizer) -> cloche.Glass:
    block = Block(Attention(4, kv_heads=2, position=RoPE()), GLU(hidden=24))
    return cloche.Glass(LM(VOCAB, 32, Stack(2, block)).build(seed=1), tokenizer)


def linear(tokenizer: cloche.Tokenizer) -> cloche.Glass:
    """No norm, identity activation, uniform attention."""
    block = Block(Attention(4), MLP("identity", hidden=24), norm=NoNorm())
    net = LM(VOCAB, 32, Stack(2, block), norm=NoNorm()).build(seed=2)
    with torch.no_grad():
        for layer in net.layers:
            layer.mix.qkv.weight[:64] = 0
    return cloche.Glass(net, tokenizer)


def dictionary(route: str) -> SAE:
    width = {"z[1]": 32, "resid_post[0]": 32, "mlp_in[0] -> mlp_out[0]": Wiring((32,), (32,))}[route]
    return SAE(width, 64, l0=8, seed=3, trained_on=Provenance(route))


ROUTES = ("z[1]", "resid_post[0]", "mlp_in[0] -> mlp_out[0]")


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("route", [None, *ROUTES])
def test_on_a_linear_model_both_estimates_are_exact(
    tokenizer: cloche.Tokenizer, route: str | None, direction: str
) -> None:
    sae = None if route is None else dictionary(route)
    finding = unit_patching(linear(tokenizer), Add(), sae, direction=direction, pairs=2, level=2)  # type: ignore[arg-type]
    exact = finding.arrays["exact"].mean(0)
    for name in ("gradient", "relevance"):
        assert finding.arrays[name][finding.arrays["listed"]] == pytest.approx(exact, abs=1e-4)
        assert finding.figures[f"{name}_sign_errors"] == 0
    assert abs(exact).max() > 1e-3 and finding.null == {"largest": 0.0}


@pytest.mark.parametrize("route", [None, *ROUTES])
def test_effects_sum_to_those_of_what_the_units_write(glass: cloche.Glass, route: str | None) -> None:
    sae = None if route is None else dictionary(route)
    finding = unit_patching(glass, PAIR, sae)
    site, _, layer = (
        (route or "mlp_act[0]").partition(" -> ")[2 if "->" in (route or "") else 0].strip("]").partition("[")
    )
    for name, instrument in (("gradient", attribution_patching), ("relevance", relevance_patching)):
        wanted = instrument(glass, PAIR, site=site).arrays["effects"][0]
        values = finding.arrays[name]
        if route is None:
            assert values.reshape(2, -1).sum(1) == pytest.approx(wanted.sum(1), abs=1e-4)
        else:
            assert len(values) == 65 and values.sum() == pytest.approx(wanted[int(layer)].sum(), abs=1e-4)


def test_a_unit_is_patched_as_a_direct_edit_does(glass: cloche.Glass) -> None:
    finding = unit_patching(glass, PAIR)
    unit, net = int(finding.arrays["listed"][0]), glass.net
    site, i = net.sites.mlp_act[unit // 24], unit % 24
    clean, corrupted = ([glass.tokenizer.encode(text)] for text in (PAIR.clean, PAIR.corrupted))
    values = {text: net.run(ids, save=[site])[site] for text, ids in (("clean", clean), ("corrupted", corrupted))}
    values["corrupted"][..., i] = values["clean"][..., i]
    x, y = (glass.tokenizer.encode(letter)[0] for letter in "xy")

    def difference(ids: list[list[int]], *edits: object) -> float:
        logits = net.run(ids, edits=edits).logits[0, -1]
        return float(logits[x] - logits[y])

    start, end = difference(corrupted), difference(clean)
    wanted = (difference(corrupted, site.replace(values["corrupted"])) - start) / (end - start)
    assert finding.arrays["exact"][0, 0] == pytest.approx(wanted, abs=1e-4)
    assert finding.data["names"][0] == f"{site} unit {i}"


def test_a_unit_behind_a_saturated_one_has_an_exact_effect_alone(tokenizer: cloche.Tokenizer) -> None:
    """Unit 0 of layer 0 sees the clean token; unit 0 of layer 1 reads it less a constant, and is off for the corrupted one."""
    block = Block(Attention(4), MLP("relu", hidden=4, bias=True), norm=NoNorm())
    net = LM(VOCAB, 32, Stack(2, block), norm=NoNorm()).build(0)
    b, c, x = (tokenizer.encode(letter)[0] for letter in "bcx")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.embed.weight[b, 0] = net.embed.weight[c, 1] = 1
        first, second = net.layers[0].map, net.layers[1].map
        first.inner.weight[0, 0] = first.outer.weight[2, 0] = 1
        second.inner.weight[0, 2], second.inner.bias[0] = 2, -1
        second.outer.weight[3, 0] = 1
        net.unembed_weight()[x, 3] = 1
    finding = unit_patching(cloche.Glass(net, tokenizer), PromptPair("ab", "ac", "x", "y"))
    found = dict(zip(finding.data["names"], finding.arrays["exact"][0], strict=True))
    assert found["mlp_act[0] unit 0"] == found["mlp_act[1] unit 0"] == pytest.approx(1)
    assert finding.arrays["gradient"][0] == 0 and finding.arrays["gradient"][4] == pytest.approx(1)
    assert finding.figures["gradient_sign_errors"] == pytest.approx(0.5), "one of two is missed"


def test_what_has_no_linear_model_has_plain_gradients_and_a_note(tokenizer: cloche.Tokenizer) -> None:
    net = LM(VOCAB, 32, Stack(1, Block(third_party.Convolution(3), GLU(hidden=24)))).build(0)
    finding = unit_patching(cloche.Glass(net, tokenizer), PAIR)
    assert "relevance" not in finding.arrays and "relevance_agreement" not in finding.figures
    assert finding.data["notes"][0].startswith("There are no effects by relevance: Convolution does not say")


def test_a_dictionary_of_another_width_is_refused(glass: cloche.Glass) -> None:
    with pytest.raises(DictionaryMismatch, match="use it with the model"):
        unit_patching(glass, PAIR, SAE(16, 64, l0=8, trained_on=Provenance("resid_post[0]")))
