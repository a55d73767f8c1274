"""Iterative hard thresholding, hard-thresholding pursuit and FISTA: fixed points, planted codes, both paths alike."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cloche.errors import ClocheError
from cloche.sparse import Dictionary, SyntheticFeatures, isotropic_noise, report
from cloche.sparse.pursuit import FISTA, IHT, HardThresholdingPursuit, Lasso
from cloche.sparse.pursuit.thresholding import thresholding_batched


def setting(dtype: torch.dtype = torch.float64, n: int = 80) -> tuple[Tensor, Dictionary]:
    atoms = torch.nn.functional.normalize(isotropic_noise(150, 48, seed=1).to(dtype), dim=1)
    return torch.nn.functional.normalize(isotropic_noise(n, 48).to(dtype), dim=1), Dictionary(atoms)


@pytest.mark.parametrize("pursuit", [IHT(k=3), HardThresholdingPursuit(k=3)])
def test_planted_codes_are_found_and_noise_is_not_explained(pursuit: IHT | HardThresholdingPursuit) -> None:
    planted = SyntheticFeatures(width=96, features=128, active=3, zipf=0.0)
    x, truth = planted.sample(300)
    code = pursuit.encode(x, planted.dictionary)
    equal = ((code.dense() != 0) == (truth.dense() != 0)).all(1)
    assert equal.double().mean() > 0.9
    assert (code.dense() - truth.dense())[equal].abs().max() < 1e-3
    assert code.active.max() <= 3
    noise = isotropic_noise(300, 96, seed=9)
    assert report(pursuit.over(planted.dictionary), planted.dictionary, noise).fvu > 0.7


def test_hard_thresholding_pursuit_ends_in_least_squares_on_its_atoms() -> None:
    x, dictionary = setting()
    code = HardThresholdingPursuit(k=6).encode(x, dictionary)
    left = (x - dictionary.decode(code)) @ dictionary.atoms.T
    assert code.active.min() == 6
    assert left[code.dense() != 0].abs().max() < 1e-9


def test_iht_ends_at_a_fixed_point_of_its_step() -> None:
    x, dictionary = setting()
    code = IHT(k=6, steps=5_000, tolerance=1e-9).encode(x, dictionary)
    left = (x - dictionary.decode(code)) @ dictionary.atoms.T
    settled = left[code.dense() != 0].view(len(x), 6).abs().amax(1) < 1e-6
    assert settled.double().mean() > 0.95


def test_neither_is_worse_than_its_start() -> None:
    """Thresholded correlations are where both begin; each must explain more than the best fit on those atoms or equal it."""
    x, dictionary = setting()
    start = HardThresholdingPursuit(k=6, steps=1).encode(x, dictionary)
    end = HardThresholdingPursuit(k=6).encode(x, dictionary)
    before, after = ((x - dictionary.decode(code)).norm(dim=1).mean() for code in (start, end))
    assert after <= before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("refit", [False, True])
def test_compiled_and_batched_agree(dtype: torch.dtype, refit: bool) -> None:
    x, dictionary = setting(dtype)
    pursuit = HardThresholdingPursuit(k=5) if refit else IHT(k=5, steps=200)
    compiled = pursuit.encode(x, dictionary).dense()
    batched = thresholding_batched(x, dictionary.atoms, 5, pursuit.steps, 0.0 if refit else 1e-5, refit)[0].dense()
    same = ((compiled != 0) == (batched != 0)).all(1)
    assert same.double().mean() >= (0.95 if dtype == torch.float32 else 1.0)  # a near tie may fall either way
    assert torch.allclose(compiled[same], batched[same], atol=1e-4 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("nonnegative", [False, True])
def test_fista_and_coordinate_descent_meet(nonnegative: bool) -> None:
    x, dictionary = setting()
    by_steps = FISTA(0.1, nonnegative, gap=1e-12, steps=50_000).encode(x, dictionary).dense()
    by_descent = Lasso(0.1, nonnegative, gap=1e-13).encode(x, dictionary).dense()
    assert torch.allclose(by_steps, by_descent, atol=1e-4)
    assert (by_steps != 0).any()


def test_fista_in_single_precision_reaches_its_default_gap_and_says_where_it_does_not() -> None:
    x, dictionary = setting()
    single = Dictionary(dictionary.atoms.float())
    a = FISTA(0.1).encode(x.float(), single).dense().double()
    best = Lasso(0.1, gap=1e-12).encode(x, dictionary).dense()

    def objective(a: Tensor) -> Tensor:
        return 0.5 * (x - a @ dictionary.atoms).square().sum(1) + 0.1 * a.abs().sum(1)

    assert (objective(a) - objective(best)).max() < 2e-6
    with pytest.warns(UserWarning, match="did not reach a duality gap"):
        FISTA(0.1, steps=2).encode(x, dictionary)


def test_settings_without_sense_are_refused() -> None:
    x, dictionary = setting()
    for pursuit, sentence in [
        (IHT(k=151), "k = 151 atoms"),
        (HardThresholdingPursuit(k=0), "k = 0 atoms"),
        (IHT(k=3, steps=0), "cannot run 0 steps"),
        (FISTA(-1.0), "penalty is -1"),
        (FISTA(0.1, steps=0), "cannot run 0 steps"),
    ]:
        with pytest.raises(ClocheError, match=sentence):
            pursuit.encode(x, dictionary)
    empty = IHT(k=3).encode(torch.zeros(2, 48, dtype=torch.float64), dictionary)
    assert empty.active.sum() == 0
