"""The learner against a planted dictionary it must find, and noise in which two learners must not agree."""

import warnings
from itertools import islice

import pytest
import torch

from cloche.sparse import (
    SAE,
    Provenance,
    Report,
    SyntheticFeatures,
    Training,
    geometric_median,
    isotropic_noise,
    mean_max_cosine,
    report,
    train_sae,
)
from cloche.sparse.batching import epochs
from cloche.sparse.saes import AuxLoss, Fit, fit_input
from cloche.sparse.truth import match

PLANTED = SyntheticFeatures(width=32, features=64, active=3, zipf=0.5)
SHORT = Training(steps=350, batch=512, lr=1e-2)


def test_planted_dictionary_is_recovered() -> None:
    x, _ = PLANTED.sample(30_000)
    sae, history = train_sae(x, 64, 3, SHORT, seed=1)
    result = report(sae, sae.dictionary, PLANTED.sample(4_000, seed=9)[0], truth=PLANTED.dictionary.atoms)
    assert result.cosine is not None and result.cosine > 0.94
    assert result.fvu < 0.15 and result.l0 == pytest.approx(3, abs=0.1) and result.dead_share < 0.05
    assert history[0]["fvu"] > 3 * history[-1]["fvu"]
    other = SyntheticFeatures(width=32, features=64, active=3, seed=5).dictionary.atoms
    assert mean_max_cosine(PLANTED.dictionary.atoms, other) < 0.55  # atoms of another dictionary score as chance does


@pytest.mark.parametrize(("steps", "least"), [(64, 0.87), (256, 0.96)])
def test_the_default_recipe_fits_the_length_of_the_run(steps: int, least: float) -> None:
    """One to one, where fixed rates of 4e-3 and 1e-2 find .64 and .75 in 64 steps, .85 and .95 in 256."""
    truth = SyntheticFeatures()
    x, _ = truth.sample(512 * steps)
    sae, _ = train_sae(x, truth.features, truth.active, Training(steps=steps), seed=1)
    assert float(match(truth.dictionary, sae.dictionary)[1].mean()) > least


def test_the_first_atoms_are_signals_and_no_two_are_alike() -> None:
    x = PLANTED.sample(100)[0]
    sae = SAE(32, 192, 3, seed=1)  # more atoms than signals: some start at the same one
    fit_input(sae, x)
    atoms, centred = sae.decoder.detach(), x * sae.scale - sae.decoder_bias.detach()
    near = atoms @ torch.nn.functional.normalize(centred, dim=1).T
    assert float(near.amax(1).min()) > 0.8 and torch.equal(sae.encoder, sae.decoder)
    assert float((atoms @ atoms.T - 2 * torch.eye(192)).max()) < 0.99


def agreement(*signals: torch.Tensor) -> float:
    brief = Training(steps=250, batch=512, lr=1e-2)
    one, two = (train_sae(x, 64, 3, brief, seed=seed)[0].dictionary.atoms for seed, x in enumerate(signals))
    return mean_max_cosine(one, two)


def test_two_learners_agree_on_structure() -> None:
    assert agreement(*(PLANTED.sample(30_000, seed)[0] for seed in (1, 2))) > 0.9


def test_two_learners_do_not_agree_on_noise() -> None:
    # Random directions score about sqrt(2 ln 64 / 32) = 0.51.
    assert agreement(*(isotropic_noise(30_000, 32, seed) for seed in (1, 2))) < 0.55


def test_recovery_does_not_depend_on_the_units() -> None:
    planted = SyntheticFeatures(width=16, features=32, active=2)
    x, _ = planted.sample(20_000)
    short = Training(steps=150, batch=512, lr=5e-3)
    small, _ = train_sae(x, 32, 2, short)
    large, _ = train_sae(x * 1000, 32, 2, short)
    a, b = report(small, small.dictionary, x), report(large, large.dictionary, x * 1000)
    assert a.fvu == pytest.approx(b.fvu, rel=0.05)
    assert float(large.encode(x * 1000).values.max()) > 500  # values are in the units of the activations


@pytest.mark.slow
def test_auxk_revives_features_that_died() -> None:
    x, _ = PLANTED.sample(30_000)
    with_aux, without = _after_killing_half(x, 1 / 32), _after_killing_half(x, 0.0)
    assert with_aux.dead_share < 0.02 and without.dead_share > 0.05
    assert with_aux.fvu < 0.8 * without.fvu
    assert with_aux.cosine is not None and without.cosine is not None and with_aux.cosine > without.cosine + 0.02


def _after_killing_half(x: torch.Tensor, aux_weight: float) -> Report:
    sae = SAE(32, 64, 3, seed=1)
    variance = fit_input(sae, x[:8_192])
    with torch.no_grad():
        sae.encoder_bias[:32] = -1
    fit = Fit(sae, Training(steps=400, batch=512, lr=1e-2, aux=AuxLoss(aux_weight, dead_after=2_048)), variance)
    for batch in islice(epochs(x, 512, seed=0), 400):
        fit.step(batch)
    return report(sae, sae.dictionary, x, truth=PLANTED.dictionary.atoms)


def test_same_seed_same_bytes_and_streams_equal_pieces() -> None:
    x, _ = SyntheticFeatures().sample(6_000)
    short = Training(steps=10, batch=512)
    a, _ = train_sae(iter(x.split(700)), 64, 4, short, trained_on=Provenance("resid_post[1]", "step-000010"))
    b, _ = train_sae(iter(x.split(97)), 64, 4, short)
    other, _ = train_sae(iter(x.split(97)), 64, 4, short, seed=1)
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name
    assert not torch.equal(a.decoder, other.decoder)
    assert a.trained_on == Provenance("resid_post[1]", "step-000010", 5_120)
    assert torch.allclose(a.decoder.norm(dim=1), torch.ones(64), atol=1e-6)


def test_short_stream_is_said() -> None:
    x, _ = SyntheticFeatures().sample(2_000)
    with pytest.warns(UserWarning, match="ended after 3 of 10 steps"):
        train_sae(iter([x]), 64, 4, Training(steps=10, batch=600))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_sae(x, 64, 4, Training(steps=10, batch=600))  # a tensor is read again


def test_geometric_median_ignores_outliers() -> None:
    x = isotropic_noise(1_001, 5)
    x[:100] += 1_000
    assert x.mean(0).norm() > 200
    assert geometric_median(x).norm() < 1
