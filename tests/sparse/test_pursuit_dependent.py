"""Pursuits over atoms that are nearly or exactly dependent, over signals of any size, and asked in every way there is."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, nnls
from torch import Tensor

from cloche.errors import ClocheError
from cloche.sparse import Dictionary
from cloche.sparse.pursuit import (
    FISTA,
    IHT,
    LARS,
    OMP,
    BasisPursuit,
    BasisPursuitDenoising,
    ElasticNet,
    HardThresholdingPursuit,
    Lasso,
    MatchingPursuit,
    NonNegativeOMP,
    Pursuit,
)
from cloche.sparse.pursuit.optimality import Denoised, Penalised
from cloche.sparse.truth import SyntheticFeatures

KINDS = ("plain", "coherent", "near", "repeated", "opposite", "whole")
EACH = (
    lambda s: MatchingPursuit(50, 0.2 * s),
    lambda s: OMP(residual=0.3 * s),
    lambda s: NonNegativeOMP(5, 0.1 * s),
    lambda s: IHT(5),
    lambda s: HardThresholdingPursuit(5),
    lambda s: FISTA(0.1 * s),
    lambda s: Lasso(0.1 * s),
    lambda s: ElasticNet(0.1 * s, 0.1),
    lambda s: LARS(0.1 * s),
    lambda s: BasisPursuit(),
    lambda s: BasisPursuitDenoising(0.3 * s),
)


def atoms_of(kind: str, size: int, width: int, rng: np.random.Generator) -> np.ndarray:
    a = rng.normal(size=(size, width))
    half = size // 2
    if kind == "coherent":
        a = 0.1 * a + rng.normal(size=width)
    elif kind == "near" and half:
        a[half : 2 * half] = a[:half] + 1e-5 * rng.normal(size=(half, width))
    elif kind in ("repeated", "opposite") and half:
        a[half : 2 * half] = a[:half] * (1 if kind == "repeated" else -1)
    elif kind == "whole":
        a = rng.integers(-1, 2, size=(size, width)).astype(float)
        a[(a == 0).all(1), 0] = 1
    return a / np.linalg.norm(a, axis=1, keepdims=True)


def signals_of(atoms: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    x = rng.normal(size=(6, atoms.shape[1]))
    x[0], x[1], x[2] = 0, atoms[0], atoms[0] - atoms[-1]
    return x


def grid() -> list[tuple[Tensor, Dictionary]]:
    found = []
    for kind, (size, width), dtype in itertools.product(
        KINDS, ((10, 10), (3, 3), (30, 10), (5, 20), (6, 1)), (torch.float64, torch.float32)
    ):
        rng = np.random.default_rng(size + width)
        atoms = atoms_of(kind, size, width, rng)
        x = torch.tensor(signals_of(atoms, rng), dtype=dtype)
        found.append((x, Dictionary(torch.nn.functional.normalize(torch.tensor(atoms), dim=1).to(dtype))))
    return found


def slack(x: np.ndarray, a: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    share = 1e-8 if dtype == torch.float64 else 3e-6
    return share * np.linalg.norm(x, axis=1) + 8 * torch.finfo(dtype).eps * np.abs(a).sum(1) + 1e-12


def test_the_path_meets_the_conditions_of_the_lasso_over_dependent_atoms() -> None:
    for (x, dictionary), penalty, nonnegative in itertools.product(grid(), (1e-6, 1e-2, 3.0), (False, True)):
        a = LARS(penalty, nonnegative).encode(x, dictionary).dense().double().numpy()
        d, signal = dictionary.atoms.double().numpy(), x.double().numpy()
        scores = (signal - a @ d) @ d.T
        over = (scores if nonnegative else np.abs(scores)).max(1) - penalty
        used = np.abs(a) > 1e-6 * np.abs(a).max(1, keepdims=True)
        apart = np.where(used, np.abs(scores - penalty * np.sign(a)), 0).max(1)
        assert (np.maximum(over, apart) <= slack(signal, a, x.dtype)).all(), (dictionary, penalty, nonnegative)
        assert not nonnegative or a.min() >= 0


def test_basis_pursuit_over_dependent_atoms_is_the_linear_programme_and_refuses_only_what_cannot_be_reached() -> None:
    for (x, dictionary), nonnegative in itertools.product(grid(), (False, True)):
        d = dictionary.atoms.double().numpy()
        for row in x[1:5]:
            signal = row.double().numpy()
            nearest = nnls(d.T, signal)[1] if nonnegative else _distance(d, signal)
            try:
                a = BasisPursuit(nonnegative).encode(row[None], dictionary).dense()[0].double().numpy()
            except ClocheError:
                assert nearest > 1e-9 * np.linalg.norm(signal)
                continue
            design = d.T if nonnegative else np.concatenate([d.T, -d.T], 1)
            best = linprog(np.ones(design.shape[1]), A_eq=design, b_eq=signal, method="highs")
            near = 1e-5 + 8 * torch.finfo(x.dtype).eps * np.abs(a).sum()
            assert np.linalg.norm(signal - a @ d) <= near
            if best.status == 0 and x.dtype == torch.float64:  # the solver's own equations hold to 1e-7 only
                assert np.abs(a).sum() <= best.fun * (1 + 1e-5) + 1e-6


def _distance(atoms: np.ndarray, x: np.ndarray) -> float:
    return float(np.linalg.norm(x - np.linalg.lstsq(atoms.T, x, rcond=None)[0] @ atoms))


def test_denoising_over_dependent_atoms_refuses_only_what_cannot_be_reached() -> None:
    reached = 0
    for x, dictionary in grid():
        d = dictionary.atoms.double().numpy()
        for row in x:
            signal = row.double().numpy()
            bound = 0.3 * float(np.linalg.norm(signal)) or 0.3
            try:
                a = BasisPursuitDenoising(bound).encode(row[None], dictionary).dense()[0].double().numpy()
            except ClocheError:
                assert _distance(d, signal) > bound * (1 - 1e-6)
                continue
            left = signal - a @ d
            near = slack(signal[None], a[None], x.dtype)[0] * 10
            scores = left @ d.T
            apart = np.abs(scores - np.abs(scores).max() * np.sign(a))[np.abs(a) > 1e-6 * np.abs(a).max()]
            assert np.linalg.norm(left) <= bound + near and apart.max(initial=0) <= near
            reached += 1
    assert reached > 200


def test_the_check_of_optimality_can_fail() -> None:
    rng = np.random.default_rng(0)
    atoms = atoms_of("plain", 12, 8, rng)
    x = rng.normal(size=(4, 8))
    a = LARS(0.1).encode(torch.tensor(x), Dictionary(torch.tensor(atoms))).dense().numpy()
    goal, rows = Penalised(atoms, False, np.full(4, 0.1)), slice(0, 4)
    assert (goal.excess(rows, x, a, x) <= 0).all()
    assert (goal.excess(rows, x, a * 1.0001, x) > 0).all()
    assert (Denoised(atoms, False, np.full(4, 0.1)).excess(rows, x, a, x) > 0).all()
    broken = a * 1.1
    assert not goal.settle(rows, x, broken, x).any()  # and what fails it is solved again
    assert np.allclose(broken, a, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_greedy_pursuits_tell_nearly_parallel_atoms_apart(dtype: torch.dtype) -> None:
    """What least squares on the atoms chosen leaves is what is left; and nothing is given up."""
    for angle, k in itertools.product((1e-1, 1e-2, 1e-3, 1e-4, 1e-5), (2, 4)):
        rng = np.random.default_rng(int(1 / angle))
        atoms = atoms_of("plain", 20, 12, rng)
        apart = rng.normal(size=12)
        atoms[1] = atoms[0] + angle * apart
        atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
        dictionary = Dictionary(torch.tensor(atoms, dtype=dtype))
        d = dictionary.atoms.double().numpy()
        x = np.stack([d[0] - d[1], apart - apart @ d[0] * d[0], d[0] + 0.3 * d[1]])
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        given = torch.tensor(x, dtype=dtype)
        x = given.double().numpy()
        for pursuit in (OMP(k), HardThresholdingPursuit(k), NonNegativeOMP(k)):
            a = pursuit.encode(given, dictionary).dense().double().numpy()
            for row, amounts in zip(x, a, strict=True):
                used = np.flatnonzero(amounts)
                best = nnls(d[used].T, row)[1] if isinstance(pursuit, NonNegativeOMP) else _distance(d[used], row)
                near = (1e-3 if dtype == torch.float32 else 1e-6) + 8 * torch.finfo(dtype).eps * np.abs(amounts).sum()
                assert len(used) and np.linalg.norm(row - amounts @ d) <= best + near, (pursuit, angle)
        pair = Dictionary(dictionary.atoms[:2])  # the difference of two such atoms is found to be of them
        for pursuit in (OMP(2), HardThresholdingPursuit(2), BasisPursuitDenoising(0.01)):
            assert (given[:1] - pair.decode(pursuit.encode(given[:1], pair))).norm() < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pursuit", EACH)
def test_the_size_of_the_signals_is_of_no_consequence(pursuit, dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(5, 8, generator=rng).to(dtype)
    dictionary = Dictionary(torch.nn.functional.normalize(torch.randn(20, 8, generator=rng).to(dtype), dim=1))
    expected = pursuit(1.0).encode(x, dictionary).dense()
    for exponent in (-100, -70, 70, 120) if dtype == torch.float32 else (-1000, -520, 520, 1000):
        half = 2.0 ** (exponent // 2)
        code = pursuit(2.0**exponent).encode(x * half * half, dictionary)
        assert torch.equal(code.dense() / half / half, expected)
    assert pursuit(1.0).encode(torch.zeros(2, 8, dtype=dtype), dictionary).active.sum() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pursuit", EACH)
def test_every_pursuit_can_be_asked_again_and_in_any_layout(pursuit, dtype: torch.dtype) -> None:
    rng, asked = torch.Generator().manual_seed(1), pursuit(1.0)
    x = torch.randn(5, 8, generator=rng).to(dtype)
    atoms = torch.nn.functional.normalize(torch.randn(20, 8, generator=rng).to(dtype), dim=1)
    dictionary = Dictionary(atoms)
    expected = asked.encode(x, dictionary).dense()
    bias = torch.nn.Parameter(torch.zeros(8, dtype=dtype))
    learned = Dictionary(torch.nn.Parameter(atoms.clone()), bias)
    for signals, over in (
        (x, dictionary),
        (x.T.contiguous().T, Dictionary(atoms.T.contiguous().T)),
        (torch.stack([x, x], 2)[:, :, 1], learned),
        (x.clone().requires_grad_(), learned),
    ):
        assert torch.allclose(asked.encode(signals, over).dense(), expected, atol=1e-5)
    assert asked.encode(x[:0], dictionary).dense().shape == (0, 20)
    assert torch.allclose(asked.encode(x[3:4], dictionary).dense(), expected[3:4], atol=1e-5)
    assert asked.encode(x.half(), dictionary).values.dtype == dtype


@pytest.mark.parametrize("pursuit", EACH)
def test_what_no_pursuit_can_take_is_refused(pursuit) -> None:
    asked, x, atoms = pursuit(1.0), torch.ones(2, 8), torch.eye(8)
    wrong = torch.ones(2, 8)
    wrong[1, 3] = torch.inf
    for signals, over, sentence in (
        (wrong, atoms, "1 of 2 signals are NaN or infinite"),
        (x * torch.nan, atoms, "2 of 2 signals are NaN"),
        (x, atoms * torch.nan, "atoms contain NaN"),
        (x, torch.zeros(8, 8), "not normalised"),
        (x.to(torch.complex64), atoms, "signals are complex"),
        (x, atoms.to(torch.complex64), "atoms are complex"),
        (x, torch.eye(8, dtype=torch.int64), "needs float32 or float64"),
        (x.tolist(), atoms, "must be a tensor"),
    ):
        with pytest.raises(ClocheError, match=sentence):
            asked.encode(signals, Dictionary(over))


def test_amounts_that_the_precision_cannot_hold_are_refused() -> None:
    for size, sentence in ((1e300, "too large for float32"), (1e-300, "too small for float32")):
        with pytest.raises(ClocheError, match=sentence):
            OMP(2).encode(torch.full((1, 4), size, dtype=torch.float64), Dictionary(torch.eye(4)))


def test_lasso_in_single_precision_is_done_again_where_single_precision_is_not_enough() -> None:
    rng = np.random.default_rng(0)
    atoms = torch.tensor(atoms_of("near", 20, 8, rng)).float()
    x = torch.tensor(rng.normal(size=(10, 8))).float()
    d, signal = atoms.double(), x.double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        a = Lasso(1e-3).encode(x, Dictionary(atoms)).dense().double()
    best = LARS(1e-3).encode(signal, Dictionary(torch.nn.functional.normalize(d, dim=1))).dense()

    def objective(amounts: Tensor) -> Tensor:
        return 0.5 * (signal - amounts @ d).square().sum(1) + 1e-3 * amounts.abs().sum(1)

    assert ((objective(a) - objective(best)) / signal.square().sum(1)).abs().max() < 3e-6


def test_a_path_over_repeated_atoms_is_optimal_at_every_bend() -> None:
    rng = np.random.default_rng(2)
    for kind in KINDS:
        atoms = atoms_of(kind, 12, 6, rng)
        x = rng.normal(size=6)
        penalties, code = LARS(1e-3).path(torch.tensor(x), Dictionary(torch.tensor(atoms)))
        a = code.dense().numpy()
        goal, rows = Penalised(atoms, False, penalties.numpy()), np.tile(x, (len(a), 1))
        assert (goal.excess(slice(None), rows, a, rows) <= 1e-9).all() and penalties[-1] <= 1e-3 * (1 + 1e-9)


def test_settings_of_other_types_are_refused() -> None:
    x, dictionary = torch.ones(2, 4), Dictionary(torch.eye(4))
    for pursuit, sentence in (
        (OMP(2.5), "k is 2.5, but must be a whole number"),
        (IHT(True), "k is True"),
        (MatchingPursuit("3"), "k is '3'"),
        (IHT(2, tolerance=float("nan")), "tolerance is nan"),
        (LARS("0.1"), "penalty is '0.1', but must be a finite number"),
        (Lasso(10**400), "penalty is a whole number of about 40[01] digits"),
    ):
        with pytest.raises(ClocheError, match=sentence):
            pursuit.encode(x, dictionary)


def test_pursuits_are_values() -> None:
    assert all(isinstance(make(1.0), Pursuit) and make(1.0) == make(1.0) for make in EACH)


def test_basis_pursuit_of_sparse_signals_in_single_precision() -> None:
    """Their rounding has coefficients of its own, too small for a linear programme at its usual tolerance: 7% were refused."""
    for seed, (width, features, active) in enumerate(((16, 24, 2), (32, 64, 3), (24, 80, 2))):
        data = SyntheticFeatures(width, features, active, seed=seed)
        x, true = data.sample(40)
        code = BasisPursuit().encode(x, data.dictionary)
        assert (code.values.abs().sum(1) <= true.values.abs().sum(1) * (1 + 1e-5)).all()
        torch.testing.assert_close(data.dictionary.decode(code), x, atol=1e-5, rtol=0)
