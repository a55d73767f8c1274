"""head_scores: a hand-built induction model scores 1 where it should, an untrained one 1/(i+1), in attention of every kind."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import hand_built
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import cloche
import third_party
from cloche import GLU, LM, Attention, Block, LayerNorm, RMSNorm, RoPE, Stack, Window
from cloche.errors import ClocheError
from cloche.interp import attention_patterns, head_scores, head_spectra
from cloche.interp.circuits import heads
from cloche.interp.circuits.heads import repeated, scores_of
from cloche.model import Causal, ScoredAttention, rotate

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
    lost = head_scores(hand_built.glass(net), length=LENGTH, draws=4, ablate=True)
    assert (lost.arrays["ablated"][:, 0] > 1).all()  # either head alone is not enough
    assert lost.figures["ablated"] > 10 * abs(lost.null["ablated"])  # type: ignore[index]
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


# ---- every kind of attention, and what it takes


KINDS = {
    "sinks and a cap": ScoredAttention(Attention(4, kv_heads=2, position=RoPE()), cap=5.0, sinks=True),
    "normalised queries": Attention(4, position=RoPE(share=0.5), qk_norm=RMSNorm()),
    "several kinds of layer": (Attention(4, mask=Causal() & Window(3)), Attention(2, head_size=6, position=RoPE())),
}


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_means_of_the_saved_patterns_over_queries_with_a_target(kind: str) -> None:
    mixers = KINDS[kind] if isinstance(KINDS[kind], tuple) else (KINDS[kind], KINDS[kind])
    net = LM(64, 32, Stack(2, tuple(Block(mix, GLU()) for mix in mixers))).build(seed=3)
    found = head_scores(cloche.Glass(net), length=9, draws=2)
    ids = repeated(cloche.Glass(net), 9, 2, 0)
    late = torch.arange(9, 18)
    for layer in range(2):
        pattern = net.run(ids, save=f"pattern[{layer}]")[f"pattern[{layer}]"]
        heads = pattern.shape[1]
        windowed = kind == "several kinds of layer" and layer == 0
        assert found.arrays["previous"][layer, :heads] == pytest.approx(
            pattern.diagonal(-1, -2, -1).mean((0, 2)).numpy(), abs=1e-6
        )
        first = pattern[:, :, 1:3, 0] if windowed else pattern[:, :, 1:, 0]  # the third query on does not see it
        assert found.arrays["first"][layer, :heads] == pytest.approx(first.mean((0, 2)).numpy(), abs=1e-6)
        assert found.arrays["induction"][layer, :heads] == pytest.approx(
            pattern[:, :, late, late - 8].mean((0, 2)).numpy(), abs=1e-6
        )
        assert np.isnan(found.arrays["first"][layer, heads:]).all()
    assert bool(found.notes) == (kind == "several kinds of layer")
    if found.notes:
        assert found.notes == [
            "Layer 0 does not see 9 tokens back, so no head there can attend to a repetition; choose a smaller length."
        ]


def largest_tensor(work: Callable[[], object]) -> int:
    """Numbers in the largest tensor that an operation makes."""

    class Loudest(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = function(*args, **(kwargs or {}))
            for each in tree_leaves(out):
                if isinstance(each, torch.Tensor) and each.untyped_storage().data_ptr():
                    self.most = max(self.most, each.untyped_storage().nbytes() // 4)
            return out

    with Loudest() as watched:
        work()
    return watched.most


def alive_after(layers: int, length: int) -> tuple[int, int]:
    """The largest tensor, and how many the reader of the layers holds when each is done, in numbers."""
    net = LM(600, 32, Stack(layers, Block(Attention(4, position=RoPE()), GLU()))).build(seed=0)
    ids = torch.arange(length)[None] % 600
    return largest_tensor(lambda: scores_of(net, torch.cat([ids, ids], 1))), net.spec.vocab * 2 * length


def test_no_pattern_is_stored_and_memory_is_flat_over_layers_and_linear_in_length() -> None:
    few, logits = alive_after(2, 250)
    many, _ = alive_after(8, 250)
    assert few == many
    longer, more_logits = alive_after(2, 500)
    assert longer <= 2 * few and 2 * longer < 4 * 1000**2  # [head, query, key] of one layer would be 4 million numbers
    assert few <= max(2 * logits, 4 * 64 * 500 * 4) and more_logits == 2 * logits


def test_reading_a_model_keeps_no_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    net = LM(64, 32, Stack(6, Block(Attention(4), GLU()))).build(seed=0)
    held, alive = [], []

    def watched(mix, reads, length):  # type: ignore[no-untyped-def]
        held.extend(weakref.ref(each) for each in reads)
        alive.append(sum(ref() is not None for ref in held))
        return {"previous": torch.zeros(4)}

    monkeypatch.setattr(heads, "_attention", watched)
    monkeypatch.setattr(heads, "SCORES", ("previous", "copying"))
    monkeypatch.setattr(heads, "_targets_seen", lambda *_: {"previous": 1, "induction": 1, "duplicate": 1})
    scores_of(net, torch.arange(20)[None])
    assert alive == [2] * 6  # q and k of one layer at a time


def test_a_model_without_attention_is_one_sentence() -> None:
    net = LM(64, 32, Stack(2, Block(third_party.Convolution(3), GLU()))).build(seed=0)
    for instrument in (head_scores, head_spectra):
        with pytest.raises(ClocheError, match="No layer of this model has an attention pattern"):
            instrument(cloche.Glass(net))
    with pytest.raises(ClocheError, match="No layer of this model has an attention pattern"):
        attention_patterns(cloche.Glass(net), [1, 2])
    mixed = (Block(third_party.Convolution(3), GLU()), Block(Attention(4), GLU()))
    found = head_scores(cloche.Glass(LM(64, 32, Stack(2, mixed)).build(seed=0)), length=9)
    assert found.data["layers"] == [1] and found.data["skipped"] == [0]


def test_heads_of_models_trained_by_others(shared: Callable[[str], Path]) -> None:
    found = head_scores(cloche.load(shared("weights/stories260K/hf")))
    assert found.figures["heads_beyond_chance"] > 2 and [3, 6] in found.data["beyond_chance"]["previous"]
    assert found.arrays["previous"].argmax() == 3 * 8 + 6 and found.figures["previous"] > 0.8
    sorting = head_scores(cloche.load(shared("weights/sortgpt/hf")), length=3)  # of three tokens and 11 positions
    assert sorting.arrays["previous"].shape == (3, 3) and np.isfinite(sorting.arrays["copying"]).all()


# ---- chance


def planted(seed: int, strength: float) -> LM:
    """A random model of 2 layers and 8 heads, one of which, layer 0 head 2, prefers the token before by its biases."""
    net = LM(64, 32, Stack(2, Block(Attention(4, position=RoPE(), bias=True), GLU()))).build(seed=seed)
    with torch.no_grad():
        bias = net.layers[0].mix.qkv.bias.view(3, 4, 8)
        bias[0, 2] = strength
        table = RoPE().table(torch.tensor([[1]]), 8)
        bias[1, 2] = rotate(torch.full((1, 1, 1, 8), strength), table)[0, 0, 0]  # highest score one position back
    return net


@pytest.mark.slow
def test_of_100_random_models_at_most_9_have_a_head_beyond_chance_and_of_100_planted_ones_at_least_90() -> None:
    random = [head_scores(cloche.Glass(planted(1000 + seed, 0.0)), 20, seed=seed) for seed in range(100)]
    assert sum(each.figures["heads_beyond_chance"] > 0 for each in random) <= 9
    found = [head_scores(cloche.Glass(planted(1000 + seed, 1.0)), 20, seed=seed) for seed in range(100)]
    assert sum([0, 2] in each.data["beyond_chance"]["previous"] for each in found) >= 90
    share = np.mean([each.arrays["previous"][0, 2] for each in found])
    assert share == pytest.approx(0.14, abs=0.02)  # the strength: untrained heads have 0.09
