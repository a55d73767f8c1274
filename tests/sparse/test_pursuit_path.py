"""Basis pursuit against linear programming, the LARS path against scikit-learn, denoising against its own conditions."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from sklearn.linear_model import lars_path
from torch import Tensor

from cloche.errors import ClocheError
from cloche.sparse import Dictionary, SyntheticFeatures, isotropic_noise
from cloche.sparse.pursuit import LARS, BasisPursuit, BasisPursuitDenoising, Lasso


def setting(dtype: torch.dtype = torch.float64, n: int = 30) -> tuple[Tensor, Dictionary]:
    atoms = torch.nn.functional.normalize(isotropic_noise(60, 20, seed=1).to(dtype), dim=1)
    return torch.nn.functional.normalize(isotropic_noise(n, 20).to(dtype), dim=1), Dictionary(atoms)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_basis_pursuit_is_the_linear_programme(dtype: torch.dtype) -> None:
    x, dictionary = setting(dtype)
    a = BasisPursuit().encode(x, dictionary).dense().double()
    d = dictionary.atoms.double()
    assert (a @ d - x).norm(dim=1).max() < (1e-5 if dtype == torch.float32 else 1e-10)
    design = np.concatenate([d.T.numpy(), -d.T.numpy()], 1)
    best = [linprog(np.ones(120), A_eq=design, b_eq=row.double().numpy(), method="highs").fun for row in x]
    assert np.allclose(a.abs().sum(1), best, rtol=1e-5 if dtype == torch.float32 else 1e-8)


def test_planted_codes_are_found_where_noise_takes_every_dimension() -> None:
    planted = SyntheticFeatures(width=40, features=80, active=4, zipf=0.0)
    dictionary = planted.dictionary.double()
    dictionary = Dictionary(torch.nn.functional.normalize(dictionary.atoms, dim=1))
    _, truth = planted.sample(100)
    x = truth.dense().double() @ dictionary.atoms
    a = BasisPursuit().encode(x, dictionary).dense()
    found = (a - truth.dense()).abs().amax(1) < 1e-8
    assert found.double().mean() > 0.95
    noise = BasisPursuit().encode(isotropic_noise(20, 40, seed=9).double(), dictionary)
    assert noise.active.min() == 40


def test_denoising_is_optimal_and_exactly_as_near_as_asked() -> None:
    """With an active bound the minimiser is the lasso's for some penalty: equal correlations on the support, less elsewhere."""
    x, dictionary = setting()
    code = BasisPursuitDenoising(residual=0.3).encode(x, dictionary)
    left = x - dictionary.decode(code)
    assert torch.allclose(left.norm(dim=1), torch.tensor(0.3, dtype=torch.float64), atol=1e-9)
    scores, a = left @ dictionary.atoms.T, code.dense()
    penalty = scores.abs().amax(1, keepdim=True)
    assert torch.allclose((scores * a.sign())[a != 0], penalty.expand_as(a)[a != 0], atol=1e-9)
    assert BasisPursuitDenoising(residual=1.1).encode(x, dictionary).active.sum() == 0
    lasso = Lasso(float(penalty[0]), gap=1e-14).encode(x[:1], dictionary)
    assert torch.allclose(lasso.dense(), a[:1], atol=1e-5)


@pytest.mark.parametrize("penalty", [0.3, 0.05, 0.001])
def test_the_path_is_scikit_learns(penalty: float) -> None:
    x, dictionary = setting()
    design = dictionary.atoms.T.numpy()
    ends = LARS(penalty).encode(x, dictionary).dense()
    for row, end in zip(x, ends, strict=True):
        _, _, theirs = lars_path(design, row.numpy(), method="lasso", alpha_min=penalty / 20)
        assert np.allclose(end, theirs[:, -1], atol=1e-8)
    penalties, codes = LARS(penalty).path(x[0], dictionary)
    alphas, _, theirs = lars_path(design, x[0].numpy(), method="lasso", alpha_min=penalty / 20)
    assert np.allclose(penalties, alphas * 20, atol=1e-9)
    assert np.allclose(codes.dense(), theirs.T, atol=1e-8)


def test_a_path_with_atoms_that_leave_still_meets_the_lasso() -> None:
    atoms = torch.nn.functional.normalize(isotropic_noise(50, 10, seed=2).double() + 1.0, dim=1)  # coherent: many leave
    dictionary, x = Dictionary(atoms), isotropic_noise(40, 10).double()
    for nonnegative in (False, True):
        path = LARS(0.01, nonnegative).encode(x, dictionary).dense()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # so coherent that descent may stop short, and says so; the path does not
            other = Lasso(0.01, nonnegative, gap=1e-11).encode(x, dictionary).dense()

        def objective(a: Tensor) -> Tensor:
            return 0.5 * (x - a @ atoms).square().sum(1) + 0.01 * a.abs().sum(1)

        over = objective(path) - objective(other)
        assert over.max() < 1e-9 and (over.abs() < 1e-8).double().mean() > 0.97
        assert not nonnegative or path.min() >= 0
    left = 0
    for row in x:
        used = LARS(0.01).path(row, dictionary)[1].dense() != 0
        left += int((~used[1:] & used[:-1]).sum())
    assert left > 0  # else this has tested no leaving


def test_what_no_code_can_reach_is_refused() -> None:
    atoms = torch.nn.functional.normalize(isotropic_noise(5, 20, seed=1).double(), dim=1)
    x, few = isotropic_noise(3, 20).double(), Dictionary(atoms)
    with pytest.raises(ClocheError, match="3 of 3 signals are no combination of the 5 atoms"):
        BasisPursuit().encode(x, few)
    with pytest.raises(ClocheError, match=r"are further than 0.1 from every combination"):
        BasisPursuitDenoising(0.1).encode(x, few)
    with pytest.raises(ClocheError, match="residual is 0"):
        BasisPursuitDenoising(0.0).encode(x, few)
    with pytest.raises(ClocheError, match="A path is of one signal, but 3 were given"):
        LARS(0.1).path(x, few)
