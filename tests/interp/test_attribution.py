"""Gradient attributions: where a unit is saturated, gradients are blind, and it shows (linear models: test_linear_model)."""

from __future__ import annotations

import copy

import pytest
import torch

import cloche
import third_party
from cloche import GLU, LM, MLP, Attention, Block, Causal, LayerNorm, RoPE, Stack, Window
from cloche.errors import ClocheError
from cloche.interp import Rank, attribution_patching, relevance_patching, token_attribution
from cloche.interp.attribution.slopes import slopes
from cloche.interp.metrics import LOGIT_DIFFERENCE
from cloche.interp.patching.cells import contrasts
from cloche.model import Mixer, NoNorm, ScoredAttention
from cloche.tasks import Add, PromptPair

VOCAB = 259


@pytest.fixture(scope="module")
def tokenizer() -> cloche.Tokenizer:
    return cloche.train_bpe(["a"], vocab=VOCAB)


@pytest.fixture(scope="module")
def glass(tokenizer: cloche.Tokenizer) -> cloche.Glass:
    block = Block(Attention(4, kv_heads=2, position=RoPE()), GLU(), norm=LayerNorm())
    return cloche.Glass(LM(VOCAB, 32, Stack(2, block)).build(seed=1), tokenizer)


@pytest.mark.parametrize("steps", [4, 16, 64])
def test_integrated_gradients_sum_to_the_difference(glass: cloche.Glass, steps: int) -> None:
    finding = token_attribution(glass, Add(), steps=steps, level=3)
    assert finding.figures["gap"] < (0.1 if steps == 4 else 1e-3)
    changed = [a != b for a, b in zip(finding.data["tokens"], finding.data["baseline"], strict=True)]
    assert not finding.arrays["integrated"][[not c for c in changed]].any(), (
        "a token that is the same contributes nothing"
    )


def test_the_gradient_is_that_of_finite_differences(glass: cloche.Glass) -> None:
    finding = attribution_patching(glass, Add(), pairs=1)
    net, pair = glass.net, Add().items(glass.tokenizer, 1)[0]
    site = net.sites.resid_pre[1]
    clean, corrupted = [list(pair.ids)], [list(pair.corrupted_ids)]
    step = 1e-2 * (net.run(clean, save=[site])[site] - net.run(corrupted, save=[site])[site])
    shared = next(i for i, (a, b) in enumerate(zip(pair.answer_ids, pair.corrupted_answer_ids, strict=True)) if a != b)
    assert shared == 0

    def difference(ids: list[list[int]], *edits: object) -> float:
        logits = net.run(ids, edits=edits).logits[0, -1].double()
        return float(logits[pair.answer_ids[0]] - logits[pair.corrupted_answer_ids[0]])

    slope = (difference(corrupted, site.add(step)) - difference(corrupted, site.add(-step))) / 2e-2
    wanted = slope / (difference(clean) - difference(corrupted))
    assert finding.arrays["effects"][0, 1].sum() == pytest.approx(wanted, rel=2e-2)


def test_a_saturated_unit_hides_its_effect_from_gradients_and_the_finding_says_so(tokenizer: cloche.Tokenizer) -> None:
    """One unit is on for the clean token and off for the corrupted one, where ReLU has no gradient: first order sees nothing of
    an effect that is everything, and twice as much from the other side."""
    net = LM(VOCAB, 32, Stack(1, Block(Attention(4), MLP("relu", hidden=4), norm=NoNorm())), norm=NoNorm()).build(0)
    b, c, x, y = (tokenizer.encode(letter)[0] for letter in "bcxy")
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "layers" in name:
                parameter.zero_()
        apart, middle = net.embed.weight[b] - net.embed.weight[c], (net.embed.weight[b] + net.embed.weight[c]) / 2
        reads = apart - middle * (apart @ middle) / (middle @ middle)  # the middle between the two tokens gives 0
        net.layers[0].map.inner.weight[0] = reads
        net.layers[0].map.outer.weight[:, 0] = 100 * (net.unembed_weight()[x] - net.unembed_weight()[y])
    glass, task = cloche.Glass(net, tokenizer), PromptPair("ab", "ac", "x", "y")
    finding = attribution_patching(glass, task)
    assert finding.arrays["exact"][0, 1] == pytest.approx(1, abs=1e-4)
    assert abs(finding.arrays["effects"][0, 0, 1]) < 0.05
    other = attribution_patching(glass, task, direction="noise").arrays["effects"][0, 0, 1]
    assert other == pytest.approx(2, abs=0.1)
    integrated = token_attribution(glass, task, steps=64).figures
    assert integrated["gap"] < 0.02


@pytest.mark.parametrize(("site", "corrupted"), [("q", "abr"), ("k", "cbp")])
def test_the_effect_of_a_saturated_head_is_found_by_its_softmax_alone(
    tokenizer: cloche.Tokenizer, site: str, corrupted: str
) -> None:
    """The last token p attends to a, with a score of 50, or else to b, with 25; r attends to b. a and c write x, b writes y."""
    net = LM(VOCAB, 32, Stack(1, Block(Attention(1), MLP("relu", hidden=4), norm=NoNorm())), norm=NoNorm()).build(0)
    a, b, c, p, r, x, y = (tokenizer.encode(letter)[0] for letter in "abcprxy")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.embed.weight[[a, b, c, p, r]] = torch.eye(32)[:5]
        queries, keys, values = net.layers[0].mix.qkv.weight.split(32)
        queries[:2, 3], queries[1, 4] = 32**0.5 * torch.tensor([50.0, 25.0]), 32**0.5 * 50
        keys[0, 0] = keys[1, 1] = values[0, 0] = values[0, 2] = values[1, 1] = 1
        net.layers[0].mix.out.weight.copy_(torch.eye(32))
        net.unembed_weight()[[x, y]] = torch.eye(32)[:2]
    finding = attribution_patching(cloche.Glass(net, tokenizer), PromptPair("abp", corrupted, "x", "y"), site=site)
    assert finding.arrays["exact"] == pytest.approx(1, abs=1e-4)
    assert abs(finding.arrays["gradient"]).max() < 1e-6, "the gradient is blind"
    assert finding.arrays["effects"][0] == pytest.approx(finding.arrays["exact"], abs=1e-5)
    assert finding.figures["sign_errors"] == 0 and finding.data["columns"] == ["h0"]


GROUPED = Attention(4, kv_heads=2, position=RoPE(), mask=Causal() & Window(5))


@pytest.mark.parametrize("site", ["q", "k"])
@pytest.mark.parametrize(
    "mix", [GROUPED, ScoredAttention(GROUPED, cap=2.0, sinks=True)], ids=["grouped", "capped, sinks"]
)
def test_the_correction_is_exact_where_all_that_follows_attention_is_linear(
    tokenizer: cloche.Tokenizer, mix: Mixer, site: str
) -> None:
    net = LM(VOCAB, 32, Stack(1, Block(mix, MLP("identity", hidden=8), norm=NoNorm())), norm=NoNorm()).build(seed=4)
    with torch.no_grad():
        net.layers[0].mix.qkv.weight[:48] *= 2  # the softmax is far from linear
    found = attribution_patching(cloche.Glass(net, tokenizer), PromptPair("abcdp", "abedr", "x", "y"), site=site).arrays
    assert found["effects"][0] == pytest.approx(found["exact"], abs=1e-5)
    assert abs(found["gradient"][0] - found["exact"]).max() > 100 * abs(found["effects"][0] - found["exact"]).max()


def test_the_correction_is_the_gradient_where_scores_hardly_change(glass: cloche.Glass) -> None:
    """Two query heads share a key head; queries and keys are small, so the softmax is nearly linear."""
    near = cloche.Glass(copy.deepcopy(glass.net), glass.tokenizer)
    with torch.no_grad():
        for layer in near.net.layers:
            layer.mix.qkv.weight[:48] *= 0.1
    for site in ("q", "k"):
        found = attribution_patching(near, Add(), site=site, pairs=3).arrays
        assert found["effects"] == pytest.approx(found["gradient"], abs=0.02 * abs(found["gradient"]).max())


def test_pairs_of_several_lengths_are_each_as_alone(glass: cloche.Glass) -> None:
    texts = (("ab", "ac", "x", "y"), ("abc", "aac", "x", "y"), ("ba", "bc", "y", "x"))
    pairs = [contrasts(glass, PromptPair(*each), 1, None, 0)[0] for each in texts]
    sites, found = list(glass.net.sites.z), {}
    for own, numbers in slopes(glass.net, pairs, sites, LOGIT_DIFFERENCE, "noise"):
        found |= {i: [numbers.first_order(site)[row] for site in sites] for row, i in enumerate(own)}
    for i, pair in enumerate(pairs):
        ((_, alone),) = slopes(glass.net, [pair], sites, LOGIT_DIFFERENCE, "noise")
        for site, values in zip(sites, found[i], strict=True):
            assert torch.allclose(values, alone.first_order(site)[0], atol=1e-6)


def test_a_model_whose_weights_have_no_gradient_has_effects(glass: cloche.Glass) -> None:
    still = cloche.Glass(copy.deepcopy(glass.net).requires_grad_(False), glass.tokenizer)
    wanted = attribution_patching(glass, Add(), pairs=2).arrays["effects"]
    assert attribution_patching(still, Add(), pairs=2).arrays["effects"] == pytest.approx(wanted, abs=1e-6)


def test_a_prompt_that_is_its_own_source_has_no_effect(glass: cloche.Glass) -> None:
    assert token_attribution(glass, Add()).null == {"largest": 0.0}
    for instrument, site in ((attribution_patching, "z"), (attribution_patching, "k"), (relevance_patching, "z")):
        assert instrument(glass, Add(), site=site, pairs=2).null == {"largest": 0.0}


def convolved() -> cloche.Glass:
    net = LM(VOCAB, 32, Stack(1, Block(third_party.Convolution(9), GLU(hidden=24)))).build(0)
    return cloche.Glass(net, cloche.train_bpe(["a"], vocab=VOCAB))


def test_tokens_of_a_model_without_a_linear_one_have_no_relevance_and_a_note() -> None:
    finding = token_attribution(convolved(), Add())
    assert "relevance" not in finding.arrays
    assert finding.data["notes"][0].startswith("There is no relevance: Convolution does not say")


def test_what_cannot_be_attributed_is_one_sentence(glass: cloche.Glass) -> None:
    cases = {
        "is not an attribution; it is one of integrated": lambda: token_attribution(glass, Add(), method="shap"),  # type: ignore[arg-type]
        "steps=0 must be between 1 and 256": lambda: token_attribution(glass, Add(), steps=0),
        "a value for each pair of tokens": lambda: attribution_patching(glass, Add(), site="scores"),
        "The Rank has no gradient;": lambda: attribution_patching(glass, Add(), metric=Rank(), level=2),
        "The Rank has no gradient": lambda: token_attribution(glass, Add(), metric=Rank(), level=2),
        "^Convolution does not say": lambda: token_attribution(convolved(), Add(), method="relevance"),
        "no gradient at q.0.; name": lambda: relevance_patching(glass, Add(), site="q"),
    }
    for sentence, call in cases.items():
        with pytest.raises(ClocheError, match=sentence):
            call()
