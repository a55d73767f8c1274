"""head_spectra: decompositions that equal the network's own products, planted copy heads, and random ones that copy nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import hand_built
import numpy as np
import pytest
import torch
from torch import Tensor

import cloche
from cloche import GLU, LM, Attention, Block, LayerNorm, RoPE, Stack
from cloche.errors import ClocheError, NotFinite
from cloche.interp import head_scores, head_spectra
from cloche.interp.circuits.spectra import subspaces
from cloche.model import (
    AllHeads,
    Causal,
    Learned,
    Network,
    NoNorm,
    RectifiedNorm,
    ScoredAttention,
    Window,
    YaRN,
    ZeroCenteredRMSNorm,
)

VOCAB, WIDTH = 40, 32
GROUPED = Attention(4, kv_heads=2, position=RoPE(theta=50.0))
TREES = {
    "grouped, rotary": LM(VOCAB, WIDTH, Stack(2, Block(GROUPED, GLU()))),
    "a part of each head turns": LM(VOCAB, WIDTH, Stack(2, Block(Attention(4, position=RoPE(share=0.5)), GLU()))),
    "scaled positions, a window": LM(
        VOCAB,
        WIDTH,
        Stack(
            2,
            Block(Attention(2, position=RoPE(scaling=YaRN(4.0, 16)), mask=Causal() & Window(5)), GLU()),
        ),
    ),
    "layer norms, learned positions": LM(
        VOCAB, WIDTH, Stack(2, Block(Attention(4), GLU(), norm=LayerNorm())), norm=LayerNorm(), position=Learned(16)
    ),
    "a scale of its own, post-norms": LM(
        VOCAB,
        WIDTH,
        Stack(2, Block(ScoredAttention(GROUPED, scale=0.3), GLU(), post=ZeroCenteredRMSNorm())),
        norm=ZeroCenteredRMSNorm(),
    ),
    "norms after the branch alone": LM(
        VOCAB, WIDTH, Stack(2, Block(Attention(4, kv_heads=1), GLU(), norm=NoNorm(), post=LayerNorm()))
    ),
}
IDS = [[7, 3, 19, 7, 30, 2, 11, 3]]


def built(name: str) -> Network:
    net = TREES[name].build(seed=2)
    with torch.no_grad():  # gains that are not 1, or folding could not be wrong
        for i, (each, parameter) in enumerate(net.named_parameters()):
            if each.endswith("norm.weight") or each.endswith("post.weight"):
                parameter.add_(0.5 * torch.rand(parameter.shape, generator=torch.Generator().manual_seed(i)))
    return net.double()


def products(found: cloche.Finding, shown: int) -> Tensor:
    """[offset, width, width]: the product that the singular values and vectors are of."""
    layer, head = found.data["shown"][shown]
    left, right = (torch.tensor(found.arrays[side][:, shown]) for side in ("left", "right"))
    values = torch.tensor(found.arrays["singular"][:, found.data["layers"].index(layer), head])
    return (left * values[:, None]) @ right.mT


@pytest.mark.parametrize("name", TREES)
def test_the_parts_make_up_what_the_network_computes(name: str) -> None:
    net = built(name)
    found = head_spectra(cloche.Glass(net), heads="1.1")
    qk = head_spectra(cloche.Glass(net), "qk", heads="1.1", offsets=[0, 1, 3])
    block, sites = net.layers[1], net.sites
    result = net.run(IDS, save=[sites.resid_pre[1], sites.pattern[1], sites.scores[1], sites.z[1]])
    read = result[sites.resid_pre[1]][0]
    if hasattr(block.mix_norm, "scale"):
        read = read / block.mix_norm.scale(read)
    own = slice(block.mix.size, 2 * block.mix.size)
    written = result[sites.z[1]][0, :, 1] @ block.mix.out.weight[:, own].T
    if isinstance(block.part.post, LayerNorm):
        written = written - written.mean(-1, keepdim=True)
    if block.mix_post is not None:
        written = written * block.mix_post.gain
    assert close(result[sites.pattern[1]][0, 1] @ read @ products(found, 0)[0].T, written)
    for at, offset in enumerate(qk.data["offsets"]):
        scores = (read[offset:] @ products(qk, 0)[at] * read[: len(read) - offset]).sum(-1)
        assert close(scores, result[sites.scores[1]][0, 1].diagonal(-offset))
    assert qk.data["offsets"] == ([0, 1, 3] if "RoPE" in str(TREES[name]) else [0])


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-5, atol=1e-5 * float(other.detach().abs().max()))


def test_singular_and_eigenvalues_are_those_of_the_whole_product() -> None:
    net = built("grouped, rotary")
    found = head_spectra(cloche.Glass(net))
    folded = net.folded()
    for layer in range(2):
        mix = folded.layers[layer].mix
        values = mix.qkv.weight[-2 * mix.size :].unflatten(0, (2, mix.size))
        for head in range(4):
            whole = mix.out.weight[:, head * mix.size : (head + 1) * mix.size] @ values[head // 2]
            expected = torch.linalg.svdvals(whole)[: mix.size].detach().numpy()
            assert found.arrays["singular"][0, layer, head] == pytest.approx(expected, rel=1e-5)
            own = (
                found.arrays["eigenvalues_real"][0, layer, head]
                + 1j * found.arrays["eigenvalues_imaginary"][0, layer, head]
            )
            largest = sorted(torch.linalg.eigvals(whole.detach()).abs().tolist())[-mix.size :]
            assert sorted(abs(own)) == pytest.approx(largest, rel=1e-5)
            logits = folded.unembed_weight() @ whole @ folded.embed.weight.T  # [vocab, vocab]
            e = torch.linalg.eigvals(logits.detach())
            score = float(e.real.sum() / e.abs().sum())
            assert found.arrays["copying"][0, layer, head] == pytest.approx(score, abs=1e-5)


def test_planted_copy_heads_score_1_and_minus_1() -> None:
    net = hand_built.induction()
    found = head_spectra(hand_built.glass(net), heads=["1.0"])
    assert found.arrays["copying"][0, 1, 0] == pytest.approx(1) == found.figures["copying"]
    assert "the highest is 1.00 (layer 1 head 0)" in found.summary
    match = head_spectra(hand_built.glass(net), "qk", heads=["1.0"]).arrays["singular"][0, 1, 0]
    assert match[:20] == pytest.approx(match[0]) and match[20:] == pytest.approx(0, abs=1e-9)
    with torch.no_grad():
        net.layers[1].mix.out.weight.neg_()
    assert head_spectra(hand_built.glass(net)).figures["lowest_copying"] == pytest.approx(-1)


def test_equal_singular_values_are_one_subspace() -> None:
    found = head_spectra(hand_built.glass(hand_built.induction()), heads=["1.0"])
    rows = next(panel for panel in found.panels if panel.title == "Directions").rows  # type: ignore[union-attr]
    assert [row[1] for row in rows] == ["1 to 20"] and rows[0][2] == pytest.approx(8)
    assert subspaces(torch.tensor([3.0, 2.0, 2.0, 1.0, 1e-9]), torch.float32) == [[0], [1, 2], [3]]
    assert subspaces(torch.tensor([3.0, 2.9, 1.0]), torch.bfloat16) == [[0, 1], [2]]


def test_random_heads_copy_nothing_within_their_spread() -> None:
    tree = LM(64, 32, Stack(2, Block(Attention(4), GLU())))
    found = [head_spectra(cloche.Glass(tree.build(seed=seed)), seed=100 + seed) for seed in range(12)]
    scores = np.stack([each.arrays["copying"] for each in found])
    spread = np.mean([each.data["spread"] for each in found])
    assert abs(scores.mean()) < 3 * spread / scores.size**0.5
    assert (abs(scores) > 2 * spread).mean() < 0.1
    assert found[0].arrays["copying_null"].std() == pytest.approx(found[0].data["spread"], rel=0.1)


def test_a_loud_token_is_at_both_ends_of_a_copying_direction() -> None:
    net = hand_built.induction()
    with torch.no_grad():
        net.layers[1].mix.out.weight[5] *= 2  # writes token 5 twice as much
    found = head_spectra(hand_built.glass(net), heads=["1.0"])
    rows = next(panel for panel in found.panels if panel.title == "Directions").rows  # type: ignore[union-attr]
    assert rows[0][1:3] == ("1", pytest.approx(16)) and rows[1][1] == "2 to 20"
    assert str(rows[0][3]).split()[0] == "5" == str(rows[0][4]).split()[0]


@pytest.mark.parametrize("name", ["sortgpt", "stories260K"])
def test_spectra_of_models_trained_by_others(name: str, shared: Callable[[str], Path]) -> None:
    glass = cloche.load(shared(f"weights/{name}/hf"))
    found, qk = head_spectra(glass), head_spectra(glass, "qk", offsets=[1])
    assert found.arrays["copying"].shape == {"sortgpt": (1, 3, 3), "stories260K": (1, 5, 8)}[name]
    assert found.figures["copying"] > 2 * found.data["spread"]
    assert np.isfinite(qk.arrays["singular"]).all() and (qk.arrays["singular"] >= 0).all()


def test_what_has_no_spectrum_is_one_sentence() -> None:
    normed = LM(64, 32, Stack(2, Block(Attention(4, qk_norm=AllHeads()), GLU()))).build(seed=0)
    with pytest.raises(ClocheError, match=r"Layer 0 normalises its queries and keys \(qk_norm\)"):
        head_spectra(cloche.Glass(normed), "qk")
    assert head_spectra(cloche.Glass(normed)).figures["largest"] > 0
    rectified = LM(64, 32, Stack(2, Block(Attention(4), GLU(), norm=RectifiedNorm()))).build(seed=0)
    with pytest.raises(ClocheError, match="No head of this model is a product of weight matrices"):
        head_spectra(cloche.Glass(rectified))
    glass = hand_built.glass(hand_built.induction())
    for options, said in (
        ({"of": "vo"}, "of='vo' must be ov or qk"),
        ({"offsets": [-1]}, r"offsets=\[-1\] must be how many positions"),
        ({"heads": "3.0"}, "the layers of this model with heads are 0 to 1"),
    ):
        with pytest.raises(ClocheError, match=said):
            head_spectra(glass, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("factor", [torch.nan, 1e200])
def test_weights_that_are_not_finite_end_no_process(factor: float) -> None:
    """LAPACK ends the process where a product that it takes eigenvalues of holds NaN."""
    net = LM(VOCAB, WIDTH, Stack(1, Block(Attention(4), GLU()))).build(seed=0).double()
    with torch.no_grad():
        net.layers[0].mix.qkv.weight.mul_(factor)
        net.layers[0].mix.out.weight.mul_(factor)
    for instrument in (head_spectra, head_scores):
        with pytest.raises(NotFinite, match=r"NaN or infinite; check its weights"):
            instrument(cloche.Glass(net))
