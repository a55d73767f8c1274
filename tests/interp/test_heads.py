"""head_scores: a hand-built induction model scores 1 where it should, an untrained one 1/(i+1), in attention of every kind."""

from __future__ import annotations

import hand_built
import pytest
import torch

import cloche
from cloche import GLU, LM, Attention, Block, LayerNorm, RoPE, Stack
from cloche.errors import ClocheError
from cloche.interp import head_scores

LENGTH = 16


def test_a_hand_built_induction_model_is_found_head_by_head() -> None:
    net = hand_built.induction(tokens=20, positions=40)
    found = head_scores(hand_built.glass(net), length=LENGTH, draws=4)
    scores = found.arrays
    assert scores["previous"][:, 0] == pytest.approx([1, 0], abs=0.1)
    assert scores["previous"][0, 0] > 0.999
    # The first position has none before it and copies itself, so the first repeated token finds two places for its own.
    assert scores["induction"][1, 0] == pytest.approx(1 - 0.5 / LENGTH, abs=1e-3) and scores["induction"][0, 0] < 0.1
    assert scores["duplicate"].max() < 0.1
    assert scores["copying"][1, 0] == pytest.approx(1)
    assert found.figures["repeat_gain"] > 1 and "layer 1 head 0" in found.summary
    logits = net.run([[5, 3, 7, 11, 3]]).logits[0, -1]
    assert int(logits.argmax()) == 7


def test_a_head_that_lowers_what_it_attends_to_scores_minus_1() -> None:
    net = hand_built.induction()
    with torch.no_grad():
        net.layers[1].mix.out.weight.neg_()
    assert head_scores(hand_built.glass(net), length=LENGTH).arrays["copying"][1, 0] == pytest.approx(-1)


def test_uniform_attention_is_one_over_the_number_of_choices() -> None:
    net = LM(64, 32, Stack(1, Block(Attention(4), GLU()))).build(seed=0)
    with torch.no_grad():
        net.layers[0].mix.qkv.weight[:64] = 0
    scores = head_scores(cloche.Glass(net), length=LENGTH, draws=2).arrays
    rows = torch.arange(2 * LENGTH)
    assert scores["previous"][0] == pytest.approx((1 / (rows[1:] + 1)).mean().item(), rel=1e-5)
    assert scores["induction"][0] == pytest.approx((1 / (rows[LENGTH:] + 1)).mean().item(), rel=1e-5)
    assert scores["first"][0] == pytest.approx(scores["previous"][0], rel=1e-5)


@pytest.mark.parametrize("attention", [
    Attention(4, kv_heads=2, position=RoPE()),
    Attention(4, bias=True, head_size=12),
    Attention(2, position=RoPE(), mask=cloche.Window(40)),
])  # fmt: skip
def test_scores_are_means_of_the_saved_patterns(attention: Attention) -> None:
    net = LM(120, 32, Stack(2, Block(attention, GLU(), norm=LayerNorm()))).build(seed=3)
    length = 40  # more than one block of rows
    found = head_scores(cloche.Glass(net), length=length, draws=3, seed=5)
    generator = torch.Generator().manual_seed(5)
    ids = torch.stack([torch.randperm(120, generator=generator)[:length] for _ in range(3)])
    pattern = net.run(torch.cat([ids, ids], 1), save="pattern.all")["pattern.all"]  # [layer, batch, head, query, key]
    late = torch.arange(length, 2 * length)
    assert found.arrays["induction"] == pytest.approx(
        pattern[..., late, late - length + 1].mean((1, 3)).numpy(), abs=1e-6
    )
    assert found.arrays["duplicate"] == pytest.approx(pattern[..., late, late - length].mean((1, 3)).numpy(), abs=1e-6)


def test_an_untrained_model_is_within_its_null() -> None:
    glass = cloche.Glass(LM(64, 32, Stack(2, Block(Attention(4, position=RoPE()), GLU()))).build(seed=0))
    found = head_scores(glass, length=20)
    assert found.null is not None
    assert found.figures["induction"] == pytest.approx(found.null["induction"], rel=0.5)
    assert abs(found.figures["repeat_gain"]) < 0.3


def test_what_cannot_be_scored_is_one_sentence() -> None:
    glass = hand_built.glass(hand_built.induction())
    for length in (1, 21):
        with pytest.raises(ClocheError, match="must be between 2 and 20"):
            head_scores(glass, length=length)
