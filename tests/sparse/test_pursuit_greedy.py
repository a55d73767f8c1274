"""Matching pursuit and non-negative orthogonal matching pursuit, against their definitions and scipy."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor

from cloche.errors import ClocheError
from cloche.sparse import Dictionary, SyntheticFeatures, isotropic_noise, report
from cloche.sparse.pursuit import MatchingPursuit, NonNegativeOMP
from cloche.sparse.pursuit.matching import matching_batched


def setting(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Dictionary]:
    atoms = torch.nn.functional.normalize(isotropic_noise(150, 32, seed=1).to(dtype), dim=1)
    return isotropic_noise(80, 32).to(dtype), Dictionary(atoms)


def matching_by_definition(x: Tensor, atoms: Tensor, steps: int) -> Tensor:
    amounts = torch.zeros(len(atoms), dtype=x.dtype)
    for _ in range(steps):
        scores = atoms @ x
        best = int(scores.abs().argmax())
        amounts[best] += scores[best]
        x = x - scores[best] * atoms[best]
    return amounts


def test_matching_pursuit_is_its_definition() -> None:
    x, dictionary = setting()
    expected = torch.stack([matching_by_definition(row, dictionary.atoms, 40) for row in x])
    assert torch.allclose(MatchingPursuit(40).encode(x, dictionary).dense(), expected, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("steps", "residual"), [(30, 0.0), (500, 0.5)])
def test_matching_pursuit_compiled_and_batched_agree(dtype: torch.dtype, steps: int, residual: float) -> None:
    x, dictionary = setting(dtype)
    pursuit = MatchingPursuit(steps, residual)
    compiled, batched = (
        pursuit.encode(x, dictionary),
        matching_batched(x, dictionary.atoms, steps, torch.full((len(x),), residual))[0],
    )
    assert torch.allclose(compiled.dense(), batched.dense(), atol=1e-4 if dtype == torch.float32 else 1e-10)
    left = (x - dictionary.decode(compiled)).norm(dim=1)
    assert residual == 0 or left.max() <= residual * (1 + 1e-4)


def test_matching_pursuit_ends_by_itself_once_all_is_explained() -> None:
    planted = SyntheticFeatures(width=64, features=96, active=2, zipf=0.0)
    x, _ = planted.sample(50)
    code = MatchingPursuit(5_000).encode(x, planted.dictionary)
    assert torch.allclose(planted.dictionary.decode(code), x, atol=1e-3)
    assert MatchingPursuit(3).encode(torch.zeros(2, 64), planted.dictionary).active.sum() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_non_negative_omp_solves_non_negative_least_squares_on_its_atoms(dtype: torch.dtype) -> None:
    x, dictionary = setting(dtype)
    a = NonNegativeOMP(k=12).encode(x, dictionary).dense().double()
    assert a.min() >= 0 and (a != 0).sum(1).max() <= 12
    for row, amounts in zip(x.double(), a, strict=True):
        chosen = amounts.nonzero()[:, 0]
        expected, _ = nnls(dictionary.atoms[chosen].double().T.numpy(), row.numpy())
        assert torch.allclose(
            amounts[chosen], torch.from_numpy(expected), atol=1e-4 if dtype == torch.float32 else 1e-9
        )


def test_with_room_enough_non_negative_omp_is_non_negative_least_squares() -> None:
    """An atom set large enough to reach the optimum: no positive correlation may be left anywhere."""
    x, _ = setting()
    atoms = torch.nn.functional.normalize(isotropic_noise(40, 32, seed=2).double(), dim=1)
    dictionary = Dictionary(atoms)
    a = NonNegativeOMP(k=32).encode(x, dictionary).dense()
    expected = torch.stack([torch.from_numpy(nnls(atoms.T.numpy(), row.numpy())[0]) for row in x])
    objective = (x - a @ atoms).square().sum(1)
    best = (x - expected @ atoms).square().sum(1)
    assert torch.allclose(objective, best, rtol=1e-8, atol=1e-10)


def test_planted_codes_are_found_and_noise_is_not_explained() -> None:
    planted = SyntheticFeatures(width=64, features=128, active=4)
    x, truth = planted.sample(400)
    code = NonNegativeOMP(k=8).encode(x, planted.dictionary)
    equal = ((code.dense() > 1e-3) == (truth.dense() > 0)).all(1)
    assert equal.double().mean() > 0.95
    assert (code.dense() - truth.dense())[equal].abs().max() < 1e-4
    noise = isotropic_noise(400, 64, seed=9)
    assert report(NonNegativeOMP(k=4).over(planted.dictionary), planted.dictionary, noise).fvu > 0.6


def test_non_negative_omp_stops_at_the_residual_and_refuses_to_run_without_end() -> None:
    x, dictionary = setting()
    code = NonNegativeOMP(residual=3.0).encode(x, dictionary)
    left = (x - dictionary.decode(code)).norm(dim=1)
    assert left.max() <= 3.0 and code.active.max() < 32
    with pytest.raises(ClocheError, match="needs a stopping rule"):
        NonNegativeOMP().encode(x, dictionary)
    with pytest.raises(ClocheError, match="cannot run 0 steps"):
        MatchingPursuit(0).encode(x, dictionary)
    with pytest.raises(ClocheError, match="k = 151 atoms"):
        NonNegativeOMP(k=151).encode(x, dictionary)
