"""Linear probes: sums give scikit-learn's ridge, planted separations give the known accuracy, controls find nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import cloche
from cloche import LM, MLP, Attention, Block, Stack
from cloche.errors import CorpusEmpty, SignalsShape, SiteUnsuitable
from cloche.interp import linear_probes
from cloche.interp.probing.grams import Grams
from cloche.interp.probing.probes import logistic

sklearn = pytest.importorskip("sklearn")
WIDTH, VOCAB = 16, 4000


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_ridge_from_sums_is_scikit_learns() -> None:
    from sklearn.linear_model import Ridge

    x, y = drawn(300, 8) @ drawn(8, 8, seed=1) + 3, (drawn(300, 2, seed=2) > 0).double()
    grams = Grams(3, 8, 2)
    for fold, (rows, targets) in enumerate(zip(x.split(100), y.split(100), strict=True)):
        grams.add(fold, rows, targets)
    scale = float((x.double() - x.double().mean(0)).square().mean())
    for penalty in (1e-3, 1.0):
        weights, offsets = grams.ridge([1e9, penalty])
        theirs = Ridge(alpha=300 * penalty * scale).fit(x.double().numpy(), y.numpy())
        assert np.allclose(weights[1].T, theirs.coef_, atol=1e-6) and np.allclose(
            offsets[1], theirs.intercept_, atol=1e-6
        )
    weights, offsets = grams.ridge([1e-3, 0.3], without=1)
    direct = ((x[100:200].double() @ weights + offsets[:, None] - y[100:200]) ** 2).sum(1)
    assert torch.allclose(grams.errors(1, weights, offsets), direct)
    left = grams.ridge([0.1], without=1)[0][0].T
    rest = torch.cat([x[:100], x[200:]]).double()
    alpha = 200 * 0.1 * float((rest - rest.mean(0)).square().mean())
    assert np.allclose(
        left, Ridge(alpha=alpha).fit(rest.numpy(), torch.cat([y[:100], y[200:]]).numpy()).coef_, atol=1e-6
    )


def test_the_penalty_of_the_least_error_on_other_folds_is_chosen() -> None:
    grams = Grams(4, 20, 2)
    x = drawn(60, 20)
    y = torch.stack([x[:, 0], drawn(60, seed=5)], 1)  # the first is linear without noise, the second noise
    for fold, (rows, targets) in enumerate(zip(x.split(15), y.split(15), strict=True)):
        grams.add(fold, rows, targets)
    penalties = (1e-4, 1e-2, 1.0, 100.0)
    weights, _, chosen, explained = grams.best(penalties)
    assert chosen[0] == 0 and chosen[1] == 3
    assert explained[0] > 0.999 and explained[1] < 0.1
    assert torch.allclose(weights[:, 0], torch.eye(20)[0].double(), atol=1e-3)


def test_logistic_separates_as_scikit_learns() -> None:
    from sklearn.linear_model import LogisticRegression

    x = drawn(400, 6) @ drawn(6, 6, seed=1)
    truth = (x[:, 0] + 0.5 * drawn(400, seed=2) > 0.3)[:, None]
    ours = logistic(x.numpy(), truth.numpy())[:, 0]
    theirs = (
        LogisticRegression(C=1e4, class_weight="balanced", max_iter=1000).fit(x.numpy(), truth[:, 0].numpy()).coef_[0]
    )
    assert ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs) > 0.999


def planted(distance: float, seed: int = 0) -> cloche.Glass:
    """Embeddings of noise 1 in every direction, and even and odd tokens `distance` apart; the layers write nothing. Only the
    separation reaches the logits."""
    net = LM(VOCAB, WIDTH, Stack(2, Block(Attention(2), MLP()))).build(seed=seed)
    axis = torch.nn.functional.normalize(drawn(WIDTH, seed=9), dim=0)
    with torch.no_grad():
        for layer in net.layers:
            layer.mix.out.weight.zero_()
            layer.map.outer.weight.zero_()
        sign = torch.arange(VOCAB) % 2 * 2 - 1
        net.embed.weight.copy_(drawn(VOCAB, WIDTH, seed=seed) + distance / 2 * sign[:, None] * axis)
        net.unembed.weight.copy_(sign[:, None] * axis)
    return cloche.Glass(net)


@pytest.fixture(scope="module")
def text() -> Tensor:
    return torch.randint(VOCAB, (60, 101), generator=torch.Generator().manual_seed(0))


def odd(subject: object, ids: Tensor) -> dict[str, Tensor]:
    return {"odd": ids % 2 == 1}


@pytest.mark.parametrize("distance", [1.0, 3.0])
def test_a_planted_separation_gives_its_accuracy(text: Tensor, distance: float) -> None:
    found = linear_probes(planted(distance), [text], odd)
    expected = 0.5 * (1 + math.erf(distance / 2 / 2**0.5))  # Phi(D / 2s)
    for method in ("ridge", "logistic", "mean difference"):
        assert found.data["scores"][method]["accuracy"][1][0] == pytest.approx(expected, abs=0.03)
    assert found.null["auroc"] == pytest.approx(0.5, abs=0.06)
    assert found.figures["selectivity"] > 0.05  # the control's labels are no direction of 16 numbers
    assert found.figures["kl"] > 5 * found.null["kl"]  # the head reads nothing else


def test_labels_that_are_not_there_are_not_read(text: Tensor) -> None:
    def thirds(subject: object, ids: Tensor) -> dict[str, Tensor]:
        return {"thirds": ids % 3 == 1, "never": ids < 0}

    found = linear_probes(planted(0.0), [text], thirds)
    assert found.data["labels"] == ["thirds"]  # "never" has one class
    assert found.figures["auroc"] == pytest.approx(0.5, abs=0.06)


def test_bad_input_is_one_sentence(text: Tensor) -> None:
    glass = planted(1.0)
    with pytest.raises(CorpusEmpty, match="at least 4"):
        linear_probes(glass, [text[:3]], odd)
    with pytest.raises(CorpusEmpty, match="No label has 10 tokens of both classes"):
        linear_probes(glass, [text[:8]], lambda subject, ids: {"none": ids < 0})
    with pytest.raises(SiteUnsuitable, match="one vector per token"):
        linear_probes(glass, [text[:8]], odd, site="z")


@pytest.mark.parametrize("wrong", ["ints", "short", "numpy", "not a dict"])
def test_labels_that_are_not_one_bool_for_each_token(text: Tensor, wrong: str) -> None:
    made: dict[str, Any] = {
        "ints": {"a": text[:8] % 2},
        "short": {"a": text[:8, 1:] % 2 == 1},
        "numpy": {"a": (text[:8] % 2 == 1).numpy()},
        "not a dict": text[:8] % 2 == 1,
    }
    with pytest.raises(SignalsShape, match="one bool for each token"):
        linear_probes(planted(1.0), [text[:8]], lambda subject, ids: made[wrong])


def test_a_site_of_one_number_and_one_that_does_not_vary(text: Tensor) -> None:
    with pytest.raises(SiteUnsuitable, match="one number per token"):
        linear_probes(planted(1.0), [text], odd, site="mlp_scale")
    still = planted(1.0)
    with torch.no_grad():
        still.net.embed.weight.zero_()
    found = linear_probes(still, [text], odd)
    assert found.figures["kl"] == 0 and found.figures["auroc"] == 0.5
