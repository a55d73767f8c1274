"""`depth_stages`: its curves where their values are known, and on text with nothing to find."""

from __future__ import annotations

import pytest
import torch
from hand_built import induction
from torch import Tensor

import cloche
from cloche import GLU, LM, MLP, Attention, Block, Stack
from cloche.errors import CorpusEmpty, PromptInvalid
from cloche.interp import depth_stages
from cloche.interp.structure.reordering import reordered_divergences
from cloche.interp.structure.stages import _crossing, word_lengths
from cloche.interp.structure.vocabulary import kurtosis, neuron_kurtosis
from third_party import Loop

BLOCK = Block(Attention(4), GLU())


@pytest.fixture(scope="module")
def text() -> Tensor:
    return torch.randint(20, (30, 40), generator=torch.Generator().manual_seed(0))


def test_the_previous_token_is_there_once_a_head_has_brought_it(text: Tensor) -> None:
    found = depth_stages(cloche.Glass(induction()), [text])
    curves = found.arrays
    assert curves["current"][0] > 0.99 and curves["previous"][0] < 0.05  # random text: neighbours say nothing
    assert curves["previous"][1] > 0.99
    assert curves["next"][0] < 0.05
    assert max(curves[f"{name}_null"].max() for name in ("previous", "current", "next")) < 0.05
    assert found.figures["without"] > 3 * found.null["without"]  # of an untrained model
    for name, labels in found.data["curves"].items():  # as `trace` reads them
        assert len(labels) == len(curves[name]) == len(curves[f"{name}_null"])


def test_a_layer_that_writes_nothing_is_not_missed(text: Tensor) -> None:
    net = LM(20, 32, Stack(3, BLOCK)).build(seed=0)
    with torch.no_grad():
        for name in ("mix.out.weight", "map.outer.weight"):
            net.layers[1].get_parameter(name).zero_()
    without, swapped = reordered_divergences(net, [text[:4]])
    assert without[1] == 0 == swapped[2] and without[0] > 0.001 < without[2]
    assert swapped[0] == pytest.approx(0, abs=1e-9) == swapped[1]  # either order of a layer and one that does nothing
    edits = [net.sites.attn_out[2].zero(), net.sites.mlp_out[2].zero()]
    clean, other = (net.run(text[:4], edits=each).logits.log_softmax(-1) for each in ((), edits))
    assert without[2] == pytest.approx(float((clean.exp() * (clean - other)).sum(-1).mean()), rel=1e-4)


def test_a_body_that_repeats_a_block_has_a_curve_over_its_iterations(text: Tensor) -> None:
    found = depth_stages(cloche.Glass(LM(20, 32, Loop(2, BLOCK)).build(seed=0)), [text[:4]])
    assert len(found.arrays["lens"]) == 3 and found.arrays["swapped"][0] == pytest.approx(0)


def test_kurtosis_is_three_for_gaussian_effects_and_high_for_one_token() -> None:
    draw = torch.Generator().manual_seed(0)
    head = torch.randn(4000, 16, generator=draw)
    gaussian = kurtosis(torch.randn(16, 300, generator=draw), head)
    assert float(gaussian.median()) == pytest.approx(3, abs=0.2)
    assert float(kurtosis(torch.eye(16), torch.eye(16)[[0] * 1 + [1] * 99])[0]) == pytest.approx(
        98.01, rel=0.01
    )  # one in 100
    assert neuron_kurtosis(LM(20, 32, Stack(2, Block(Attention(4), MLP()))).build(seed=0))[0] > 1


def test_words_are_runs_of_letters_and_digits() -> None:
    assert word_lengths(["the", " c", "at", " sat", ".", "x", "1", "\n", "y"]) == [1, 2, 1, 1, 2, 1, 1]
    assert word_lengths([]) == []


def test_attention_within_words_beside_words_elsewhere() -> None:
    tokenizer = cloche.train_bpe(["a"], vocab=259)
    glass = cloche.Glass(LM(259, 32, Stack(2, BLOCK)).build(seed=0), tokenizer)
    found = depth_stages(glass, ["the quick brown fox jumps over the lazy dog and runs away from it " * 2])
    inside, other = found.arrays["within_word"], found.arrays["within_word_null"]
    assert len(inside) == 2 and all(0 < value < 1 for value in (*inside, *other))


def test_where_a_curve_crosses_half_of_its_gain() -> None:
    assert _crossing([0, 0, 1, 1, 1]) == 0.5
    assert _crossing([1, 0, 0, 0, 2]) == 1.0
    assert _crossing([3, 3]) == 0.0


def test_bad_input_is_one_sentence(text: Tensor) -> None:
    glass = cloche.Glass(LM(20, 32, Stack(2, BLOCK)).build(seed=0))
    with pytest.raises(PromptInvalid, match="three tokens"):
        depth_stages(glass, [text[:, :2]])
    with pytest.raises(CorpusEmpty, match="at least 32"):
        depth_stages(glass, [text[:1, :9]])
