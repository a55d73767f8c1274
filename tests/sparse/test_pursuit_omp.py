"""Orthogonal matching pursuit: planted codes, scikit-learn's supports, both paths alike, what it refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from sklearn.linear_model import orthogonal_mp

from cloche.errors import ClocheError
from cloche.sparse import Code, Dictionary, SyntheticFeatures, isotropic_noise, report
from cloche.sparse.pursuit import OMP, Pursuit
from cloche.sparse.pursuit.omp_torch import omp_batched


def supports(code: Code) -> list[set[int]]:
    return [set(row[amount != 0].tolist()) for row, amount in zip(code.indices, code.values, strict=True)]


def doubled(dictionary: Dictionary) -> Dictionary:
    return Dictionary(torch.nn.functional.normalize(dictionary.atoms.double(), dim=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_planted_codes_are_found_exactly(dtype: torch.dtype) -> None:
    planted = SyntheticFeatures(width=64, features=200, active=5, zipf=0.0)
    x, truth = planted.sample(400)
    atoms = planted.dictionary.atoms.to(dtype)
    dictionary = Dictionary(torch.nn.functional.normalize(atoms, dim=1))
    signals = Dictionary(dictionary.atoms).decode(Code(truth.indices, truth.values.to(dtype), truth.size))
    code = OMP(k=12).encode(signals, dictionary)  # room for more: it must stop by itself at rounding
    found = torch.tensor([a == b for a, b in zip(supports(code), supports(truth), strict=True)])
    assert found.double().mean() > 0.97  # OMP's guarantee ends with coherence, so not every draw
    error = (code.dense() - truth.dense())[found].abs().max()
    assert error < (1e-5 if dtype == torch.float32 else 1e-12)
    assert x.shape == signals.shape


def test_supports_equal_scikit_learn_on_999_of_1000_signals() -> None:
    planted = SyntheticFeatures(width=48, features=160, active=6, noise=0.02, seed=3)
    x, _ = planted.sample(1_000)
    mine = OMP(k=6).encode(x, planted.dictionary)
    theirs = torch.from_numpy(
        orthogonal_mp(planted.dictionary.atoms.double().T.numpy(), x.double().T.numpy(), n_nonzero_coefs=6)
    ).T
    equal = torch.tensor(
        [a == set(row.nonzero()[:, 0].tolist()) for a, row in zip(supports(mine), theirs, strict=True)]
    )
    assert equal.double().mean() >= 0.999
    assert (mine.dense() - theirs)[equal].abs().max() < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("k", "residual"), [(7, 0.0), (None, 0.4), (5, 1.0)])
def test_compiled_and_batched_agree(dtype: torch.dtype, k: int | None, residual: float) -> None:
    x, atoms = isotropic_noise(90, 24).to(dtype), isotropic_noise(1_500, 24, seed=1).to(dtype)
    dictionary = Dictionary(torch.nn.functional.normalize(atoms, dim=1))
    compiled = OMP(k, residual).encode(x, dictionary)
    batched = Code(*omp_batched(x, dictionary.atoms, k or 24, torch.full((len(x),), residual))[:2], dictionary.size)
    assert supports(compiled) == supports(batched)
    assert torch.allclose(compiled.dense(), batched.dense(), atol=1e-3 if dtype == torch.float32 else 1e-9)


def test_the_residual_is_as_asked_and_one_atom_fewer_would_not_do() -> None:
    x = isotropic_noise(200, 32)
    dictionary = Dictionary(torch.nn.functional.normalize(isotropic_noise(100, 32, seed=1), dim=1))
    code = OMP(residual=1.5).encode(x, dictionary)
    left = (x - dictionary.decode(code)).norm(dim=1)
    assert left.max() <= 1.5 * (1 + 1e-5)
    fewer = OMP(k=int(code.active.max()) - 1).encode(x, dictionary)
    longest = code.active == code.active.max()
    assert (x - dictionary.decode(fewer)).norm(dim=1)[longest].min() > 1.5


def test_a_tiny_residual_is_reached_in_single_precision() -> None:
    planted = SyntheticFeatures(width=64, features=96, active=3, zipf=0.0)
    x, _ = planted.sample(100)
    code = OMP(residual=1e-5).encode(x, planted.dictionary)
    assert (x - planted.dictionary.decode(code)).norm(dim=1).max() <= 1.2e-5
    assert code.active.float().mean() < 4


def test_a_duplicated_atom_and_a_zero_signal_are_no_trouble() -> None:
    atoms = torch.nn.functional.normalize(isotropic_noise(20, 8), dim=1)
    dictionary = Dictionary(torch.cat([atoms, atoms, -atoms]))
    x = torch.cat([isotropic_noise(30, 8, seed=2), torch.zeros(1, 8)])
    code = OMP(k=12).encode(x, dictionary)
    assert code.active[-1] == 0 and code.active.max() <= 8
    assert torch.allclose(dictionary.decode(code), x, atol=1e-4)
    batched = Code(*omp_batched(x, dictionary.atoms, 8, torch.zeros(len(x)))[:2], 60)
    assert torch.allclose(dictionary.decode(batched), x, atol=1e-4)


def test_noise_stays_noise() -> None:
    """Signals without structure: k atoms explain far less of them than of planted signals, with any dictionary."""
    planted = SyntheticFeatures(width=64, features=128, active=4)
    x, _ = planted.sample(500)
    share = {}
    for name, signals in (("planted", x), ("noise", isotropic_noise(500, 64, seed=9))):
        share[name] = report(OMP(k=4).over(planted.dictionary), planted.dictionary, signals).fvu
    assert share["planted"] < 0.02 and share["noise"] > 0.5
    silent = OMP(residual=64**0.5 * 1.5).encode(isotropic_noise(500, 64, seed=9), planted.dictionary)
    assert silent.active.sum() == 0  # asked for no more than the noise level, nothing is found in noise


def test_the_bias_is_taken_off_first() -> None:
    planted = SyntheticFeatures(width=32, features=64, active=3)
    x, _ = planted.sample(50)
    bias = torch.linspace(-2, 2, 32)
    shifted = Dictionary(planted.dictionary.atoms, bias)
    plain, code = OMP(k=3).encode(x, planted.dictionary), OMP(k=3).encode(x + bias, shifted)
    assert supports(plain) == supports(code)
    assert torch.allclose(shifted.decode(code), planted.dictionary.decode(plain) + bias, atol=1e-5)


def test_the_gram_follows_the_atoms_when_they_change() -> None:
    planted = SyntheticFeatures(width=32, features=64, active=3)
    x, _ = planted.sample(50)
    dictionary = Dictionary(planted.dictionary.atoms.clone())
    first = dictionary.gram
    assert dictionary.gram is first
    dictionary.atoms[:] = dictionary.atoms.flip(0)
    assert torch.equal(dictionary.gram, first.flip(0).flip(1))
    there = OMP(k=3).encode(x, dictionary).dense().flip(1)
    assert torch.allclose(there, OMP(k=3).encode(x, planted.dictionary).dense(), atol=1e-5)


def test_two_threads_give_the_same_codes() -> None:
    planted = SyntheticFeatures(width=32, features=64, active=3, noise=0.1)
    x, _ = planted.sample(301)
    one = OMP(k=5).encode(x, planted.dictionary)
    torch.set_num_threads(2)
    two = OMP(k=5).encode(x, planted.dictionary)
    assert torch.equal(one.indices, two.indices) and torch.allclose(one.values, two.values, atol=1e-5)


def test_no_signals_give_an_empty_code() -> None:
    dictionary = SyntheticFeatures().dictionary
    assert len(OMP(k=3).encode(torch.zeros(0, 32), dictionary)) == 0


def unit(n: int, width: int) -> Dictionary:
    return Dictionary(torch.nn.functional.normalize(isotropic_noise(n, width), dim=1))


@pytest.mark.parametrize(
    ("pursuit", "x", "dictionary", "sentence"),
    [
        (OMP(k=3), torch.full((2, 8), float("nan")), unit(20, 8), "2 of 2 signals are NaN or infinite"),
        (
            OMP(k=21),
            torch.ones(2, 8),
            unit(20, 8),
            "k = 21 atoms per signal cannot be selected from a dictionary of 20",
        ),
        (OMP(k=0), torch.ones(2, 8), unit(20, 8), "k = 0 atoms"),
        (OMP(k=3), torch.ones(2, 8), Dictionary(3 * unit(20, 8).atoms), "The dictionary is not normalised"),
        (OMP(k=3), torch.ones(2, 9), unit(20, 8), r"Signals of shape \[2, 9\] do not fit"),
        (OMP(k=3), torch.ones(8), unit(20, 8), r"Signals of shape \[8\] do not fit"),
        (OMP(k=3), torch.ones(2, 8, device="meta"), unit(20, 8), "The signals are on meta"),
        (OMP(k=3), torch.ones(2, 8), Dictionary(unit(20, 8).atoms.bfloat16()), "needs float32 or float64"),
        (OMP(), torch.ones(2, 8), unit(20, 8), "needs a stopping rule"),
        (OMP(k=3, residual=-1.0), torch.ones(2, 8), unit(20, 8), "residual is -1"),
    ],
)
def test_what_cannot_be_encoded_is_refused(
    pursuit: OMP, x: torch.Tensor, dictionary: Dictionary, sentence: str
) -> None:
    with pytest.raises(ClocheError, match=sentence):
        pursuit.encode(x, dictionary)


def test_importing_the_room_brings_no_compiler() -> None:
    code = "import sys, cloche.sparse, cloche.sparse.pursuit; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_pursuit_without_encode_cannot_be_made() -> None:
    class Idle(Pursuit):
        pass

    with pytest.raises(TypeError, match="abstract method"):
        Idle()  # type: ignore[abstract]
