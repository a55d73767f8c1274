"""CKA and shared neighbours: closed forms, what they do not depend on, and controls in which they find nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import cloche
from cloche import GLU, LM, Attention, Block, Stack
from cloche.errors import CorpusEmpty, InstrumentOption, SiteUnsuitable
from cloche.interp import representation_similarity
from cloche.interp.similarity.measures import centred_grams, cka, memberships, permuted, shared_neighbours

N = 200


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_cka_without_bias_is_the_published_formula() -> None:
    x, y = drawn(30, 8).double(), drawn(30, 5, seed=1).double()
    y[:, :3] += x[:, :3]

    def hsic(k: Tensor, l: Tensor) -> Tensor:
        n, one = len(k), torch.ones(len(k), dtype=k.dtype)
        k, l = k.clone().fill_diagonal_(0), l.clone().fill_diagonal_(0)
        sums = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        return ((k @ l).trace() + sums - 2 / (n - 2) * one @ k @ l @ one) / (n * (n - 3))

    a, b = x @ x.T, y @ y.T
    expected = hsic(a, b) / (hsic(a, a) * hsic(b, b)).sqrt()
    x, y = x - x.mean(0), y - y.mean(0)  # the formula is not changed by a shift of all rows
    assert float(cka(centred_grams([x]), centred_grams([y]))[0, 0]) == pytest.approx(float(expected), abs=1e-10)


def test_a_rotation_scale_and_shift_change_nothing_and_independent_rows_are_not_alike() -> None:
    x = drawn(N, 16)
    turned = x @ torch.linalg.qr(drawn(16, 16, seed=1)).Q * 3
    grams = centred_grams(
        [x, turned + 7, drawn(N, 512, seed=2)]
    )  # more columns than rows, where the plain estimate is .7
    found = cka(grams, grams)
    assert float(found[0, 1]) == pytest.approx(1, abs=1e-5)
    assert float(found[0, 2].abs()) < 0.03
    near = memberships([x, turned, drawn(N, 512, seed=2)], 10)
    share = shared_neighbours(near, near, 10)
    assert float(share[0, 1]) == pytest.approx(1) and float(share[0, 2]) < 0.1


def test_the_nearest_are_those_of_all_distances() -> None:
    x = drawn(1500, 8)  # more than one block
    unit = torch.nn.functional.normalize(x, dim=1)
    every = (unit @ unit.T).fill_diagonal_(-2).topk(5, dim=1).indices
    assert memberships([x], 5).view(1500, 1500).gather(1, every).mean() > 0.999  # but for rounding


def test_permuted_tokens_are_the_rows_in_another_order() -> None:
    x, order = drawn(50, 4), torch.randperm(50)
    assert torch.allclose(permuted(centred_grams([x]), order), centred_grams([x[order]]))


@pytest.fixture(scope="module")
def text() -> Tensor:
    return torch.randint(64, (6, 40), generator=torch.Generator().manual_seed(0))


def model(seed: int, depth: int = 3, vocab: int = 64) -> cloche.Glass:
    return cloche.Glass(
        LM(vocab, 32, Stack(depth, Block(Attention(4), GLU()))).build(seed=seed), checkpoint=f"seed-{seed}"
    )


def test_a_model_is_itself_and_like_one_that_is_rotated_and_unlike_permuted_tokens(text: Tensor) -> None:
    same = representation_similarity(model(0), [text], other=model(0))
    assert torch.from_numpy(same.arrays["cka"]).diagonal().tolist() == pytest.approx([1.0] * 3)
    assert same.figures["neighbours"] == pytest.approx(1.0)
    assert abs(same.null["cka"]) < 0.05 and same.null["neighbours"] < 0.1
    seeds = representation_similarity(model(0), [text], other=model(1))
    assert seeds.null["cka"] < 0.1 < seeds.figures["cka"] < same.figures["cka"]  # random weights are alike, as stated
    assert seeds.null["cka"] < 0.1 < seeds.figures["untrained"] < 0.95  # two networks, not one twice


def test_layers_that_do_nothing_are_alike(text: Tensor) -> None:
    glass = model(0)
    with torch.no_grad():
        for name in ("mix.out.weight", "map.outer.weight"):
            glass.net.layers[1].get_parameter(name).zero_()
    found = representation_similarity(glass, [text])
    assert float(found.arrays["cka"][0, 1]) == pytest.approx(1.0) and found.figures["cka"] < 1
    assert found.panels[0].rows[0] == "resid_post[2]"


def test_bad_input_is_one_sentence(text: Tensor) -> None:
    with pytest.raises(InstrumentOption, match="one tokenizer"):
        representation_similarity(model(0), [text], other=model(0, vocab=65))
    with pytest.raises(SiteUnsuitable, match="one vector per token"):
        representation_similarity(model(0), [text], site="pattern")
    for windows, options in (([text[:1, :5]], {}), ([text], {"neighbours": 0}), ([text], {"tokens": 4})):
        with pytest.raises(CorpusEmpty, match="give more text"):
            representation_similarity(model(0), windows, **options)
