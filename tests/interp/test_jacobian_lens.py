"""The Jacobian lens where J is known in closed form, beside finite differences in every family, and where it finds nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hand_built import glass
from test_lenses import VOCAB, product, small_run, straight, text
from torch import Tensor

import cloche
from cloche.errors import ClocheError
from cloche.interp import (
    JacobianConfig,
    Lens,
    LensConfig,
    Materials,
    fill_in,
    find_instrument,
    fit_jacobian,
    jacobian_lens,
    lens_comparison,
    logit_lens,
    open_lens,
    save_lens,
    train_lens,
    tuned_lens,
)
from cloche.interp.lenses import Affine
from cloche.model import GLU, LM, MLP, Attention, Block, LayerNorm, Network, NoNorm, RMSNorm, Stack, load_network

ALL = JacobianConfig(cotangents=0)


def averaging(width: int = 8, layers: int = 2) -> Network:
    """Linear: no norm, identity activation, and attention that gives every position up to its own the same weight."""
    block = Block(Attention(2), MLP("identity", hidden=6), NoNorm())
    net = LM(VOCAB, width, Stack(layers, block), NoNorm()).build(seed=5)
    with torch.no_grad():
        for layer in net.layers:
            layer.mix.qkv.weight[: 2 * width] = 0
    return net


def closed_form(net: Network, length: int, places: range) -> Tensor:
    """J [site, width, width] of `averaging`: the blocks of the products of I + A x V and I + W, x the Kronecker product."""
    width, eye = net.spec.width, torch.eye(length, dtype=torch.float64)
    pattern = eye.new_ones(length, length).tril() / torch.arange(1, length + 1, dtype=torch.float64)[:, None]
    whole = torch.eye(length * width, dtype=torch.float64)
    found = []
    for layer in reversed(net.layers):
        v = layer.mix.qkv.weight[2 * width :].detach().double()
        w = layer.map.outer.weight.detach().double() @ layer.map.inner.weight.detach().double()
        whole = whole @ (torch.kron(eye, w) + torch.eye(length * width))
        whole = whole @ (torch.kron(pattern, layer.mix.out.weight.detach().double() @ v) + torch.eye(length * width))
        blocks = whole.view(length, width, length, width)[places.start : places.stop, :, places.start : places.stop]
        found.append(blocks.sum(0).mean(1))
    return torch.stack(found[::-1])


def mean_jacobian(lens: Lens) -> Tensor:
    weight = lens.maps["Jacobian lens"].weight
    assert weight is not None
    return weight + torch.eye(lens.width)


@pytest.mark.parametrize(("length", "skip", "places"), [(9, 3, range(3, 8)), (9, 16, range(4, 8)), (2, 16, range(1))])
def test_linear_attention_has_its_jacobian_in_closed_form(length: int, skip: int, places: range) -> None:
    net = averaging()
    found = fit_jacobian(glass(net), [text(4, length)], JacobianConfig(skip))
    assert torch.allclose(mean_jacobian(found).double(), closed_form(net, length, places), atol=1e-5)
    assert found.jacobian is not None and max(found.jacobian.error) < 1e-5, "every text has the same J"


def test_later_positions_count() -> None:
    """What a Jacobian at each position alone would be, on the same model, is something else."""
    net = averaging()
    within = torch.stack([closed_form(net, 9, range(p, p + 1)) for p in range(3, 8)]).mean(0)
    assert not torch.allclose(within, closed_form(net, 9, range(3, 8)), atol=1e-2)


@pytest.mark.parametrize("cotangents", [1, 2])
def test_random_cotangents_find_a_constant_jacobian_after_one_basis(cotangents: int) -> None:
    net = averaging()
    texts = text(2 * 8 // cotangents, 9)  # every half of them has a whole basis of width 8
    found = fit_jacobian(glass(net), [texts], JacobianConfig(3, cotangents))
    assert torch.allclose(mean_jacobian(found).double(), closed_form(net, 9, range(3, 8)), atol=1e-5)


def test_without_attention_the_lenses_agree() -> None:
    net = straight(RMSNorm())
    subject, held = glass(net), [text(16, seed=1)]
    lens = train_lens(subject, [text(64)], LensConfig(steps=8, batch=512)) | fit_jacobian(subject, [text(8)])
    tuned = lens.maps["tuned lens"].weight
    assert tuned is not None
    for before, layers in ((1, 2), (2, 1)):
        assert torch.allclose(mean_jacobian(lens)[before], product(net, layers), atol=1e-5)
        assert torch.allclose(mean_jacobian(lens)[before], torch.eye(16) + tuned[before], atol=1e-4)
    found = lens_comparison(subject, held, lens)
    assert max(found.data["kl"]["Jacobian lens"][1:]) < 1e-6 and min(found.data["top1"]["Jacobian lens"][1:]) == 1
    assert max(found.data["distance"]["tuned lens / Jacobian lens"][1:]) < 1e-4
    assert min(found.data["distance"]["logit lens / Jacobian lens"]) > 0.01


def test_shuffled_outputs_read_nothing() -> None:
    net = straight(RMSNorm())
    lens = fit_jacobian(glass(net), [text(8)])
    shuffled = mean_jacobian(lens)[:, torch.randperm(16, generator=torch.Generator().manual_seed(0))]
    control = Lens({"Jacobian lens": Affine(shuffled - torch.eye(16), torch.zeros(3, 16))}, lens.sites)
    found, null = (lens_comparison(glass(net), [text(16, seed=1)], each).figures for each in (lens, control))
    assert null["jacobian"] > null["logit"] > found["jacobian"] and null["jacobian_top1"] < 0.2 < found["jacobian_top1"]


def test_a_model_with_random_weights_says_no_next_token() -> None:
    subject = glass(LM(VOCAB, 16, Stack(2, Block(Attention(2), GLU()))).build(seed=0))
    found = jacobian_lens(subject, text(1, 400, seed=2)[0], fit_jacobian(subject, [text(8)]), top=1)
    following, shuffled = (torch.tensor(found.data[name]) for name in ("next", "shuffled"))
    assert torch.allclose(following, shuffled, rtol=0.15)


def test_the_identity_is_the_logit_lens() -> None:
    subject = glass(LM(VOCAB, 16, Stack(2, Block(Attention(2), GLU()))).build(seed=0))
    same = Lens({"Jacobian lens": Affine(torch.zeros(2, 16, 16), torch.zeros(2, 16))}, ("embed", "resid_post[0]"))
    one, two = jacobian_lens(subject, [3, 1, 2], same, top=4), logit_lens(subject, [3, 1, 2], top=4)
    for name, values in two.arrays.items():
        assert torch.allclose(torch.as_tensor(one.arrays[name]), torch.as_tensor(values)), name
    assert one.data["kl"][-1] == 0 and one.instrument == "jacobian-lens"


@pytest.fixture(scope="module")
def random_model() -> Callable[[int], Any]:
    pytest.importorskip("transformers")
    from family_table import built
    from random_configs import random_config

    return lambda number: built(*random_config(number), seed=number)


@pytest.mark.parametrize("number", range(14))
def test_in_every_family_it_is_the_finite_difference(
    number: int, random_model: Callable[[int], Any], tmp_path: Path
) -> None:
    random_model(number).save_pretrained(tmp_path)
    net = load_network(tmp_path, check_sites=False).double()
    ids = text(1, 8, net.spec.vocab)
    lens = fit_jacobian(glass(net), [ids], JacobianConfig(skip=2, cotangents=0))
    sites, places = [net.sites.embed, *net.sites.resid_post], range(2, 7)
    v = torch.randn(net.spec.width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for index, site in enumerate(sites[:-1]):
        change = torch.zeros_like(v)
        for p in places:
            ends = [
                net.run(ids, save=sites[-1:], edits=[site.add(sign * 1e-5 * v).at(p)], logits=False)[sites[-1]]
                for sign in (1, -1)
            ]
            change += (ends[0] - ends[1])[0, places.start : places.stop].sum(0) / 2e-5 / len(places)
        expected = mean_jacobian(lens)[index].double() @ v
        assert float((change - expected).norm() / expected.norm()) < 1e-4, site  # routers compute in float32


@pytest.mark.parametrize("norm", [RMSNorm(), LayerNorm()])
def test_folded_weights_have_the_same_lens(norm: Any) -> None:
    """Folding leaves the residual stream as it is, so it needs no refusal (a lens of a model whose writing weights were centred
    would)."""
    net = LM(VOCAB, 16, Stack(2, Block(Attention(2), GLU(hidden=24), norm)), norm).build(seed=0)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    lens, folded = (fit_jacobian(glass(each), [text(4)], ALL) for each in (net, net.folded()))
    assert torch.allclose(mean_jacobian(lens), mean_jacobian(folded), atol=1e-5)
    one, two = (jacobian_lens(glass(each), [1, 2, 3], lens, top=3) for each in (net, net.folded()))
    assert torch.allclose(torch.as_tensor(one.arrays["kl"]), torch.as_tensor(two.arrays["kl"]), atol=1e-5)


def test_the_error_is_that_between_samples_of_texts() -> None:
    subject = glass(LM(VOCAB, 16, Stack(2, Block(Attention(2), GLU(hidden=24)))).build(seed=0))
    for config in (ALL, JacobianConfig(cotangents=2)):
        lenses = [fit_jacobian(subject, [text(32, 24, seed=s)], config, seed=s) for s in range(6)]
        each = torch.stack([mean_jacobian(lens) for lens in lenses])
        spread = (each - each.mean(0)).norm(dim=(2, 3)).square().sum(0).div(5).sqrt() / each.mean(0).norm(dim=(1, 2))
        stated = torch.tensor([lens.jacobian.error for lens in lenses if lens.jacobian]).mean(0)
        assert (stated / spread > 0.7).all() and (stated / spread < 1.4).all()


def test_a_frozen_model_and_one_in_bfloat16_have_a_lens() -> None:
    net = LM(VOCAB, 16, Stack(2, Block(Attention(2), GLU(hidden=24)))).build(seed=0)
    whole = fit_jacobian(glass(net), [text(8)])
    assert torch.equal(mean_jacobian(fit_jacobian(glass(net.requires_grad_(False)), [text(8)])), mean_jacobian(whole))
    half = mean_jacobian(fit_jacobian(glass(net.to(torch.bfloat16)), [text(8)]))
    assert float((half - mean_jacobian(whole)).norm() / mean_jacobian(whole).norm()) < 0.03


def test_it_joins_the_lens_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloche.interp.lenses.keeping.DEFAULT", LensConfig(steps=1, tokens=1024))
    monkeypatch.setattr("cloche.interp.lenses.keeping.JACOBIAN_DEFAULT", JacobianConfig(tokens=512, length=32))
    run = small_run(tmp_path, 1)
    subject = cloche.load(run)

    def lens_for(name: str, paths: bool = True) -> Lens:
        found: Lens = fill_in(*find_instrument(name), {}, Materials(subject, run, paths))["lens"]
        return found

    assert set(lens_for("tuned-lens").maps) == {"bias only", "ridge map", "tuned lens"}
    assert len(lens_for("lens-comparison", paths=False).maps) == 3, "a request trains nothing"
    with pytest.raises(ClocheError, match=r"no Jacobian lens of step-000000 yet: train it with .* jacobian-lens "):
        lens_for("jacobian-lens", paths=False)
    made, kept = lens_for("jacobian-lens"), open_lens(run, "step-000000")
    assert made.jacobian == kept.jacobian and made.jacobian is not None and made.jacobian.texts == 16
    assert len(kept.maps) == 4 and torch.equal(mean_jacobian(made), mean_jacobian(kept))
    found = lens_comparison(subject, [text(4, vocab=280)], lens_for("lens-comparison"))
    assert {"jacobian", "jacobian_top1"} <= set(found.figures) and "Jacobian" not in str(found.data["notes"])
    alone = fit_jacobian(subject, [text(4, vocab=280)])
    save_lens(run, alone, "alone")
    assert jacobian_lens(subject, [1, 2], open_lens(run, "alone")).figures["kl"] > 0
    assert "jacobian" in lens_comparison(subject, [text(4, vocab=280)], alone).figures


def test_misuse_gets_one_sentence() -> None:
    subject = glass(LM(VOCAB, 16, Stack(2, Block(Attention(2), GLU()))).build(seed=0))
    wide = glass(LM(VOCAB, 32, Stack(2, Block(Attention(2), GLU()))).build(seed=0))
    lens, other = fit_jacobian(subject, [text(2)]), fit_jacobian(wide, [text(2)])
    broken = LM(VOCAB, 16, Stack(2, Block(Attention(2), GLU()))).build(seed=0)
    with torch.no_grad():
        broken.layers[1].mix.out.weight[0, 0] = torch.nan
    for sentence, misuse in (
        ("at least two tokens", lambda: fit_jacobian(subject, [])),
        ("at least two tokens", lambda: fit_jacobian(subject, [text(3, 1)])),
        ("NaN or infinite", lambda: fit_jacobian(glass(broken), [text(2)])),
        ("of width 16 at embed, resid_post", lambda: jacobian_lens(subject, [1, 2], other)),
        ("has no tuned lens, only Jacobian lens: train_lens", lambda: tuned_lens(subject, [1, 2], lens)),
        ("cannot be joined", lambda: lens | other),
        ("skip and cotangents of 0 or more", lambda: JacobianConfig(skip=-1)),
        ("at least 2 tokens", lambda: JacobianConfig(length=1)),
    ):
        with pytest.raises(ClocheError, match=sentence) as caught:
            misuse()
        assert "\n" not in str(caught.value)
    single = jacobian_lens(subject, [5], lens, top=2)
    assert single.data["kl"][-1] == 0 and single.null is None, "a prompt of one token"
    assert len(jacobian_lens(subject, [[5], [1, 2]], lens, top=2)) == 2
