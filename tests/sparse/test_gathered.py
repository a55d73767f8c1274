"""Choices of unequal size, a signal's or a whole batch's, against dense arithmetic and dense automatic differentiation."""

import pytest
import torch
from torch import Tensor

from cloche.sparse import SAE, BatchTopK, Gated, JumpReLU, ReLU
from cloche.sparse.saes.choose import above, select_batch, select_topk
from cloche.sparse.saes.gathered import AllFeatures
from cloche.sparse.saes.kinds import BatchStats, Kind


def problem(features: int, n: int = 700, width: int = 32) -> tuple[Tensor, list[Tensor]]:
    """Signals, and weight, bias, atoms, centre."""
    rng = torch.Generator().manual_seed(features)
    shapes = [(n, width), (features, width), (features,), (features, width), (width,)]
    x, *weights = (torch.randn(shape, generator=rng) for shape in shapes)
    return x, weights


@pytest.mark.parametrize("guess", [0.0, 3.0, 1e9])
@pytest.mark.parametrize(("features", "k"), [(256, 8), (96, 1), (40_000, 4)])
def test_a_batch_chooses_its_strongest_whatever_was_guessed(features: int, k: int, guess: float) -> None:
    x, (weight, bias, _, centre) = problem(features)
    choice, least = select_batch(x - centre, weight, bias, k * len(x), guess)
    dense = torch.addmm(bias, x - centre, weight.T)
    expected = dense.flatten().topk(k * len(x))
    assert torch.equal((choice.signals * features + choice.indices).sort().values, expected.indices.sort().values)
    assert least == pytest.approx(float(expected.values[-1]), rel=1e-5)
    torch.testing.assert_close(choice.pre, dense[choice.signals, choice.indices], atol=1e-4, rtol=1e-5)
    assert choice.starts.diff().unique().numel() > 1  # signals differ in how many they chose


def test_no_negative_answer_is_chosen() -> None:
    x, (weight, _, _, _) = problem(64)
    choice, _ = select_batch(x, weight, torch.full((64,), -12.0), 64 * len(x))
    assert 0 < len(choice.indices) < 64 * len(x) and choice.pre.min() > 0
    none, _ = select_batch(x, weight, torch.full((64,), -1e6), 100)
    assert len(none.pre) == 0 and len(none) == len(x)
    assert none.decode(none.pre, weight).abs().max() == 0
    assert none.padded(none.pre)[1].tolist() == [[0.0]] * len(x)


@pytest.mark.parametrize("unequal", [True, False])
@pytest.mark.parametrize(("features", "k"), [(256, 8), (250, 8), (96, 1), (40_000, 4)])
def test_gradients_of_a_choice_equal_dense_autograd(features: int, k: int, unequal: bool) -> None:
    x, weights = problem(features)
    weight, bias, atoms, centre = (w.requires_grad_() for w in weights)
    with torch.no_grad():
        given = x - centre, weight, bias
        choice = select_batch(*given, k * len(x))[0] if unequal else select_topk(*given, k)
    values = choice.encode(x, centre, weight, bias).relu()
    ours = torch.autograd.grad((x - choice.decode(values, atoms)).square().sum(1).mean(), weights)
    dense = torch.addmm(bias, x - centre, weight.T)
    kept = torch.zeros_like(dense).index_put((choice.signals, choice.indices), torch.ones(len(choice.indices)))
    reference = torch.autograd.grad((x - (dense * kept).relu() @ atoms).square().sum(1).mean(), weights)
    for mine, other in zip(ours, reference, strict=True):
        assert (mine - other).norm() <= 1e-5 * other.norm()


def test_parts_of_a_choice_decode_to_the_whole_and_pad_to_a_code() -> None:
    x, (weight, bias, atoms, _) = problem(256)
    choice, _ = select_batch(x, weight, bias, 8 * len(x))
    low, high = choice.decode(choice.pre, atoms, 0, 64), choice.decode(choice.pre, atoms, 64)
    assert low.abs().max() > 0 and high.abs().max() > 0
    torch.testing.assert_close(low + high, choice.decode(choice.pre, atoms), atol=1e-4, rtol=1e-4)
    indices, values = choice.padded(choice.pre)
    dense = torch.zeros(len(x), 256).scatter_add_(1, indices, values)
    assert (dense > 0).sum() == len(choice.pre)
    torch.testing.assert_close(dense @ atoms, low + high, atol=1e-3, rtol=1e-4)


def test_each_feature_has_its_own_bar() -> None:
    x, (weight, bias, _, _) = problem(64)
    low = torch.linspace(-2, 8, 64)
    choice, dense = above(x, weight, bias, low), torch.addmm(bias, x, weight.T)
    assert torch.equal(choice.counts(choice.pre.exp()), (dense > low).sum(0))


@pytest.mark.parametrize("nested", [(), (20,)], ids=["plain", "nested"])
@pytest.mark.parametrize("kind", [ReLU, Gated, JumpReLU, BatchTopK], ids=lambda kind: kind.__name__)
def test_gathering_and_plain_products_train_every_kind_alike(kind: type[Kind], nested: tuple[int, ...]) -> None:
    """One loss of all that a kind answers, through few slots and through all: the same gradients of every weight."""
    sae, (x, weights) = SAE(32, 256, 8, kind(nested=nested), seed=0), problem(256)
    with torch.no_grad():
        for name, weight in sae.extra.items():
            if weight.ndim:
                weight.add_(0.1 * torch.randn(256, generator=torch.Generator().manual_seed(len(name))))
        sae.encoder_bias.copy_(weights[1] * 0.1 - 0.3)
    gradients = []
    for share in (0.0, 1.0):
        sae.zero_grad()
        chosen, acts = sae.feature_acts(x, BatchStats(share=share))
        assert isinstance(chosen, AllFeatures) == (share == 1.0 and kind is not BatchTopK)
        halves = [chosen.decode(acts.values, sae.decoder, 0, 20), chosen.decode(acts.values, sae.decoder)]
        loss = sum((x - half - sae.decoder_bias).square().mean() for half in halves)
        if acts.penalty is not None:
            loss = loss + 1e-3 * acts.penalty
        if acts.gate_acts is not None:
            loss = loss + (x - chosen.decode(acts.gate_acts, sae.decoder.detach())).square().mean()
        loss.backward()
        gradients.append({name: p.grad.clone() for name, p in sae.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() >= {"encoder", "encoder_bias", "decoder", "decoder_bias"}
    for name, few in gradients[0].items():
        assert (few - gradients[1][name]).norm() <= 1e-5 * gradients[1][name].norm(), name
