"""Lasso and elastic net: scikit-learn's answers, the optimality conditions themselves, both sides of the penalty."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import ElasticNet as TheirElasticNet
from sklearn.linear_model import Lasso as TheirLasso
from torch import Tensor

from cloche.errors import ClocheError
from cloche.sparse import Dictionary, SyntheticFeatures, isotropic_noise
from cloche.sparse.pursuit import ElasticNet, Lasso


def setting(n: int = 60, width: int = 40, size: int = 120) -> tuple[Tensor, Dictionary]:
    atoms = torch.nn.functional.normalize(isotropic_noise(size, width, seed=1).double(), dim=1)
    return torch.nn.functional.normalize(isotropic_noise(n, width).double(), dim=1), Dictionary(atoms)


def gap_of(x: Tensor, d: Tensor, a: Tensor, penalty: float, nonnegative: bool = False) -> Tensor:
    """Duality gap of the lasso from its definition, with the residual scaled to be dual feasible."""
    left = x - a @ d
    scores = left @ d.T
    top = (scores if nonnegative else scores.abs()).amax(1)
    dual = left * (penalty / top).clamp(max=1.0)[:, None]
    primal = 0.5 * left.square().sum(1) + penalty * a.abs().sum(1)
    return primal - (0.5 * x.square().sum(1) - 0.5 * (x - dual).square().sum(1))


@pytest.mark.parametrize("penalty", [0.02, 0.1, 0.25])
def test_the_lasso_is_scikit_learns(penalty: float) -> None:
    x, dictionary = setting()
    code = Lasso(penalty, gap=1e-12).encode(x, dictionary)
    theirs = TheirLasso(alpha=penalty / 40, fit_intercept=False, tol=1e-13, max_iter=100_000)
    theirs.fit(dictionary.atoms.T.numpy(), x.T.numpy())
    expected = torch.from_numpy(theirs.coef_)
    assert torch.allclose(code.dense(), expected, atol=1e-5)
    equal = ((code.dense() != 0) == (expected != 0)).all(1)
    assert equal.double().mean() > 0.95  # some amounts are within rounding of zero


@pytest.mark.parametrize("nonnegative", [False, True])
def test_the_gap_is_as_asked_and_the_conditions_hold(nonnegative: bool) -> None:
    x, dictionary = setting()
    d, penalty = dictionary.atoms, 0.1
    a = Lasso(penalty, nonnegative, gap=1e-13).encode(x, dictionary).dense()
    assert gap_of(x, d, a, penalty, nonnegative).max() <= 1e-12
    left = (x - a @ d) @ d.T
    assert (left[a != 0] - penalty * a[a != 0].sign()).abs().max() < 1e-5
    assert (left if nonnegative else left.abs()).max() <= penalty * (1 + 1e-5)
    assert not nonnegative or a.min() >= 0
    assert (a != 0).any() and (nonnegative or a.min() < 0)


def test_single_precision_reaches_the_default_gap() -> None:
    x, dictionary = setting(n=200)
    single = Dictionary(dictionary.atoms.float())
    code = Lasso(0.1).encode(x.float(), single)
    assert gap_of(x, dictionary.atoms, code.dense().double(), 0.1).max() <= 2e-6


@pytest.mark.parametrize("ridge", [0.05, 0.5])
def test_the_elastic_net_is_scikit_learns(ridge: float) -> None:
    x, dictionary = setting()
    penalty = 0.05
    code = ElasticNet(penalty, ridge, gap=1e-12).encode(x, dictionary)
    share = penalty / (penalty + ridge)
    theirs = TheirElasticNet((penalty + ridge) / 40, l1_ratio=share, fit_intercept=False, tol=1e-13, max_iter=100_000)
    theirs.fit(dictionary.atoms.T.numpy(), x.T.numpy())
    assert torch.allclose(code.dense(), torch.from_numpy(theirs.coef_), atol=1e-6)


def test_planted_supports_are_found_and_noise_gives_nothing() -> None:
    planted = SyntheticFeatures(width=64, features=128, active=3, zipf=0.0, noise=0.01)
    x, truth = planted.sample(300)
    found = Lasso(0.15).encode(x, planted.dictionary).dense() != 0
    strong = truth.dense() > 0.7
    assert found[strong].double().mean() > 0.99
    noise = 0.01 * isotropic_noise(300, 64, seed=5)
    assert Lasso(0.15).encode(noise, planted.dictionary).active.sum() == 0


def test_a_penalty_beyond_all_correlations_gives_an_empty_code() -> None:
    x, dictionary = setting()
    top = (x @ dictionary.atoms.T).abs().max()
    assert Lasso(float(top) * 1.0001, gap=1e-12).encode(x, dictionary).active.sum() == 0
    assert Lasso(float(top) * 0.999, gap=1e-12).encode(x, dictionary).active.sum() > 0


def test_a_duplicated_atom_still_closes_the_gap() -> None:
    x, dictionary = setting()
    both = Dictionary(torch.cat([dictionary.atoms, dictionary.atoms]))
    a = Lasso(0.1, gap=1e-8).encode(x, both).dense()
    assert gap_of(x, both.atoms, a, 0.1).max() < 2e-8


def test_a_gap_beneath_rounding_is_said() -> None:
    x, dictionary = setting()
    with pytest.warns(UserWarning, match="did not reach a duality gap of 1e-30"):
        Lasso(0.01, gap=1e-30).encode(x[:20].float(), Dictionary(dictionary.atoms.float()))


@pytest.mark.parametrize(
    ("pursuit", "sentence"),
    [
        (Lasso(0.0), "penalty is 0"),
        (Lasso(float("nan")), "penalty is nan"),
        (Lasso(0.1, gap=0.0), "gap is 0"),
        (ElasticNet(0.1, ridge=-1.0), "ridge is -1"),
    ],
)
def test_settings_without_sense_are_refused(pursuit: Lasso | ElasticNet, sentence: str) -> None:
    x, dictionary = setting()
    with pytest.raises(ClocheError, match=sentence):
        pursuit.encode(x, dictionary)
