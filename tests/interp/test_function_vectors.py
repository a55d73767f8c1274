"""Function vectors: the head that carries a planted rule is found, its output is the vector, and shuffled answers give none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import cloche
from bench.interp.planted_rule import Successor, in_context
from cloche import GLU, LM, Attention, Block, LayerNorm, RMSNorm, Stack
from cloche.errors import ClocheError, InstrumentOption, ModelUnsupported, SiteUnsuitable, TaskInvalid, TokenizerMissing
from cloche.interp import function_vector, function_vectors
from cloche.interp.steering.functions import found_heads
from cloche.interp.steering.shots import few_shot
from cloche.model import RectifiedNorm
from cloche.tasks import FromFile, PromptPair

ANTONYMS = Path(__file__).parents[3] / "shared/data/interp/function_vectors/abstractive/antonym.json"
HEAD = "z[1].head(0)"  # the one that averages what the examples show


@pytest.fixture(scope="module")
def tokenizer() -> cloche.Tokenizer:
    return cloche.train_bpe(["a"], vocab=259)


@pytest.fixture(scope="module")
def glass(tokenizer: cloche.Tokenizer) -> cloche.Glass:
    return cloche.Glass(in_context(tokenizer), tokenizer, "hand-built", "step-000001")


@pytest.mark.parametrize("by", [0, 1])
def test_the_head_of_a_planted_rule_is_found_and_its_vector_is_enough(glass: cloche.Glass, by: int) -> None:
    found = function_vectors(glass, Successor(by=by), shots=4, prompts=8)
    assert found.data["chosen"] == [HEAD] and found.figures["largest_effect"] > 0.8
    assert found.figures["gain"] > 5 and found.figures["accuracy"] == 1
    assert found.figures["p"] == pytest.approx(1 / 41)
    answers = found.data["answers"]
    assert answers["no examples"]["accuracy"] == 0 and answers["4 examples"]["accuracy"] == 1
    assert answers["no examples, with the vector"] == pytest.approx(answers["4 examples"], abs=1e-5)
    assert not found.arrays["random"].any()  # no other head carries the rule
    again = function_vectors(glass, Successor(by=by), shots=4, prompts=8)
    assert again.data == found.data and again.figures == found.figures


def test_a_head_that_writes_nothing_has_no_effect(glass: cloche.Glass) -> None:
    found = function_vectors(glass, Successor(), shots=4, prompts=4)
    effects = dict(zip(found.data["heads"], found.arrays["effects"].tolist(), strict=True))
    assert effects["z[1].head(1)"] == 0.0 and effects[HEAD] > 0.8


def test_where_no_head_writes_anything_nothing_is_gained(tokenizer: cloche.Tokenizer) -> None:
    net = LM(259, 32, Stack(2, Block(Attention(4), GLU(hidden=16)))).build(seed=0)
    with torch.no_grad():
        for layer in net.layers:
            layer.mix.out.weight.zero_()
    silent = cloche.Glass(net, tokenizer)
    found = function_vectors(silent, Successor(), shots=2, prompts=2)
    assert not found.arrays["effects"].any() and not found.arrays["vector"].any()
    assert found.figures["gain"] == found.null["gain"] == 0 and found.figures["p"] == 1
    with pytest.raises(ModelUnsupported, match="write nothing"):
        function_vector(silent, Successor(), shots=2, prompts=2)


NORMS = {"none": {}, "RMSNorm": {"post": RMSNorm()}, "LayerNorm": {"norm": LayerNorm(), "post": LayerNorm()}}


@pytest.mark.parametrize("kind", NORMS)
def test_the_vector_is_the_sum_of_the_heads_outputs(tokenizer: cloche.Tokenizer, kind: str) -> None:
    block = Block(Attention(4, kv_heads=2, bias=True), GLU(hidden=16), **NORMS[kind])
    net = LM(259, 32, Stack(2, block)).build(seed=0)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.ndim == 1:  # gains and biases of a trained model
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    random = cloche.Glass(net, tokenizer)
    vector = function_vector(random, Successor(), shots=2, prompts=3, heads=8, site="resid_post[1]")
    made = few_shot(random, Successor(), 2, 3, None, 0, 0)
    expected = torch.zeros(32)
    for (
        prompt
    ) in made.right:  # attention output with all heads, minus that of no head at the same scale, and their bias
        r = net.run(prompt.ids, save=["attn_out.all", "head_out.all"])
        for layer in (0, 1):
            out, block_module = r[f"attn_out[{layer}]"][0, -1], net.layers[layer]
            bias = block_module.mix.out.bias
            if kind == "none":
                expected += (out - bias) / 3
                continue
            total = r[f"head_out[{layer}]"][0, -1].sum(0) + bias
            norm, own = block_module.mix_post, getattr(block_module.mix_post, "bias", torch.zeros(32))
            heads = norm.divided(total - bias, norm.scale(total)) - own
            expected += heads / 3
    assert torch.allclose(vector.unit * vector.direction, expected.detach(), atol=1e-5)
    steered = net.run([[1, 2]], save=["resid_post[1]"], edits=vector.edits(net, 1.0))
    clean = net.run([[1, 2]], save=["resid_post[1]"])
    assert torch.allclose((steered["resid_post[1]"] - clean["resid_post[1]"])[0, 1], expected.detach(), atol=1e-5)


def test_effects_are_those_of_single_patched_passes(tokenizer: cloche.Tokenizer) -> None:
    net = LM(259, 32, Stack(2, Block(Attention(4), GLU(hidden=16)))).build(seed=3)
    random = cloche.Glass(net, tokenizer)
    made = few_shot(random, Successor(by=1), 2, 3, None, 1, 0)
    found = found_heads(net, made, None)
    site = net.sites.z[1]
    for draw, prompts in enumerate((made.right, made.relabelled[0])):
        mean = torch.stack([net.run(each.ids, save=[site])[site][0, -1, 2] for each in prompts]).mean(0)
        effect = 0.0
        for each in made.shuffled:
            edits = [site.head(2).replace(mean).at(each.ids.shape[1] - 1)]
            logits = [net.run(each.ids, edits=some).logits[0, -1].softmax(-1)[each.answer] for some in (edits, [])]
            effect += float(logits[0] - logits[1]) / 3
        assert float(found.effects[draw, 6]) == pytest.approx(effect, abs=1e-7)


def test_published_questions_make_prompts(tokenizer: cloche.Tokenizer) -> None:
    if not ANTONYMS.is_file():
        pytest.skip(f"{ANTONYMS} is not there")
    net = LM(259, 32, Stack(1, Block(Attention(2), GLU(hidden=16)))).build(seed=0)
    made = few_shot(cloche.Glass(net, tokenizer), FromFile(str(ANTONYMS)), 2, 4, None, 1, 0)
    texts = [tokenizer.decode(prompt.ids[0].tolist()) for prompt in (made.right[0], made.shuffled[0], made.alone[0])]
    assert texts[0].count("Q: ") == 3 and texts[0].endswith("\nA: ") and texts[0].count("\n\n") == 2
    assert texts[0] != texts[1] and sorted(texts[0]) == sorted(texts[1]) and texts[2].count("Q: ") == 1
    asked = [
        {tokenizer.decode(each.ids[0].tolist()).rsplit("Q: ")[-1] for each in some} for some in (made.right, made.alone)
    ]
    assert not asked[0] & asked[1]  # held-out questions are other ones


def test_bad_input_is_one_sentence(glass: cloche.Glass, tokenizer: cloche.Tokenizer) -> None:
    rectified = LM(259, 32, Stack(1, Block(Attention(2), GLU(), post=RectifiedNorm()))).build(seed=0)
    cases: list[tuple[type[ClocheError], str, Any]] = [
        (TokenizerMissing, "no tokenizer", lambda: function_vectors(cloche.Glass(glass.net), Successor())),
        (InstrumentOption, "at least 2 and 1", lambda: function_vector(glass, Successor(), shots=1)),
        (InstrumentOption, "at least 2 and 1", lambda: function_vector(glass, Successor(), prompts=0)),
        (InstrumentOption, "from 1 to 4", lambda: function_vector(glass, Successor(), shots=2, heads=5)),
        (InstrumentOption, "from 1 to 4", lambda: function_vector(glass, Successor(), shots=2, heads=0)),
        (TaskInvalid, "give fewer shots", lambda: function_vector(glass, Successor(), shots=7)),
        (TaskInvalid, "too few questions", lambda: function_vector(glass, PromptPair("a", "b", "c", "d"))),
        (SiteUnsuitable, "width 72, and mlp_act", lambda: function_vector(glass, Successor(), site="mlp_act[0]")),
        (SiteUnsuitable, "one vector per token", lambda: function_vector(glass, Successor(), site="z[0]")),
        (ModelUnsupported, "not a sum over heads", lambda: function_vector(cloche.Glass(rectified, tokenizer), Successor(), 2)),
    ]  # fmt: skip
    for kind, words, call in cases:
        with pytest.raises(kind, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
