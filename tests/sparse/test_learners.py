"""Dictionary learners: planted atoms found, nothing found in noise, monotone where the theory says so, what is refused."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from cloche.errors import ClocheError
from cloche.sparse import Dictionary, SyntheticFeatures, isotropic_noise, mean_max_cosine, report
from cloche.sparse.learners import ITDA, KSVD, Learner, OnlineDictionaryLearning
from cloche.sparse.learners.base import first_atoms, new_directions
from cloche.sparse.learners.ksvd import updated
from cloche.sparse.learners.online import Fitting
from cloche.sparse.learners.online_kernel import accumulate, update_atoms
from cloche.sparse.pursuit import OMP, Lasso, Pursued

PLANTED = SyntheticFeatures(width=32, features=48, active=3, zipf=0.0, noise=0.02)
LEARNERS: dict[str, Learner] = {
    "online": OnlineDictionaryLearning(48, OMP(k=3), passes=8, batch=256),
    "online, lasso": OnlineDictionaryLearning(48, Lasso(0.2), passes=4, batch=256),
    "k-svd": KSVD(48, OMP(k=3), rounds=30),
}


def signed() -> Tensor:
    """Planted signals with amounts of both signs."""
    x, code = PLANTED.sample(6_000)
    sign = torch.randint(0, 2, code.values.shape, generator=torch.Generator().manual_seed(5)) * 2 - 1
    return x + torch.einsum("nk,nkd->nd", code.values * (sign - 1), PLANTED.dictionary.atoms[code.indices])


def found(truth: Tensor, learned: Tensor) -> float:
    """Share of the true atoms that some learned atom is, up to its sign."""
    return float(((truth @ learned.T).abs().amax(1) > 0.99).double().mean())


@pytest.mark.parametrize("name", LEARNERS)
def test_planted_atoms_are_found_up_to_sign_and_order(name: str) -> None:
    dictionary, encoder = LEARNERS[name].fit(signed())
    assert isinstance(encoder, Pursued) and encoder.dictionary is dictionary
    assert found(PLANTED.dictionary.atoms, dictionary.atoms) >= 0.95
    assert torch.allclose(dictionary.norms, torch.ones(48), atol=1e-5)


@pytest.mark.parametrize("name", LEARNERS)
def test_noise_holds_no_atoms(name: str) -> None:
    """The control: atoms learned from noise lie no nearer to any given directions than random ones do."""
    dictionary, _ = LEARNERS[name].fit(isotropic_noise(1_500, 32, seed=3))
    truth = PLANTED.dictionary.atoms
    chance = mean_max_cosine(truth, isotropic_noise(48, 32, seed=4))
    assert mean_max_cosine(truth, dictionary.atoms) < chance + 0.05
    assert found(truth, dictionary.atoms) == 0


def test_the_sums_are_what_they_say() -> None:
    x, code = PLANTED.sample(200)
    products, targets = np.zeros((48, 48), np.float32), np.zeros((48, 32), np.float32)
    accumulate(code.indices.numpy(), code.values.numpy(), x.numpy(), products, targets)
    dense = code.dense().double()
    np.testing.assert_allclose(products, dense.T @ dense, atol=1e-4)
    np.testing.assert_allclose(targets, dense.T @ x.double(), atol=1e-4)


def test_an_atom_moves_to_its_least_squares_direction() -> None:
    """Against the definition in float64: the atom that minimises |x - D a|^2 with the codes and the others held."""
    x, code = PLANTED.sample(400)
    x, dense = x.double(), code.dense().double()
    products, targets = (dense.T @ dense).numpy(), (dense.T @ x).numpy()
    atoms = torch.nn.functional.normalize(isotropic_noise(48, 32).double(), dim=1)
    expected = atoms.clone()
    for j in range(48):
        without = x - dense @ expected + dense[:, j, None] * expected[j]
        expected[j] = torch.nn.functional.normalize(dense[:, j] @ without, dim=0)
    moved = atoms.numpy().copy()
    update_atoms(moved, products, targets, 0.0)
    np.testing.assert_allclose(moved, expected, atol=1e-10)


def test_a_stream_is_read_once_in_order_and_learns_the_same_atoms() -> None:
    x = torch.cat([signed() for _ in range(4)])
    read = []

    def stream() -> Iterator[Tensor]:
        for piece in x.split(1_000):
            read.append(len(piece))
            yield piece

    dictionary, _ = OnlineDictionaryLearning(48, OMP(k=3), batch=256).fit(stream())
    assert sum(read) == len(x)
    assert found(PLANTED.dictionary.atoms, dictionary.atoms) >= 0.95


def test_the_same_seed_gives_the_same_bytes_and_numpy_is_as_good() -> None:
    x = signed()[:1_000]
    learner = OnlineDictionaryLearning(40, OMP(k=3), passes=2)
    one, two = learner.fit(x)[0].atoms, learner.fit(x.numpy())[0].atoms
    assert torch.equal(one, two)
    assert learner.fit(x.double())[0].atoms.dtype == torch.float64


def test_dead_and_doubled_atoms_become_badly_explained_signals() -> None:
    x = signed()
    start = PLANTED.dictionary.atoms.clone()
    start[7] = start[6]
    learner = OnlineDictionaryLearning(48, OMP(k=3), dead_after=10**9)
    fitting = Fitting(learner, start)
    fitting.step(x[:1_000])
    gram = fitting.dictionary.gram.abs().fill_diagonal_(0)
    assert gram.max() < 0.99
    after, _ = OnlineDictionaryLearning(48, OMP(k=3), passes=6).fit(x, start=Dictionary(start))
    assert found(PLANTED.dictionary.atoms, after.atoms) == 1.0


def test_learning_explains_more_than_the_signals_it_starts_from() -> None:
    x = signed()
    start = Dictionary(first_atoms(x, 48, seed=0))
    dictionary, encoder = OnlineDictionaryLearning(48, OMP(k=3)).fit(x)
    before = report(OMP(k=3).over(start), start, x).fvu
    assert report(encoder, dictionary, x).fvu < 0.1 * before


def test_first_atoms_point_in_directions_of_their_own() -> None:
    x = isotropic_noise(50, 8)
    x = torch.cat([torch.zeros(5, 8), x, -2 * x, 3 * x])
    atoms = first_atoms(x, 50, seed=0)
    assert ((atoms @ atoms.T).abs().fill_diagonal_(0)).max() < 0.999
    assert len(new_directions(atoms, atoms)) == 0
    assert set(new_directions(torch.cat([atoms[:10], atoms, -atoms]), atoms[:10]).tolist()) == set(range(20, 60))
    with pytest.raises(ClocheError, match="51 atoms cannot be learned from 155 signals"):
        first_atoms(x, 51, seed=0)


def test_a_round_of_ksvd_never_explains_less_and_keeps_the_supports() -> None:
    x = signed()[:1_500]
    dictionary = Dictionary(first_atoms(x, 48, seed=0))
    code = OMP(k=3).encode(x, dictionary)
    for _ in range(3):
        better, refitted = updated(dictionary, code, x)
        assert (x - better.decode(refitted)).square().sum() <= (x - dictionary.decode(code)).square().sum() * (1 + 1e-6)
        assert torch.equal(refitted.indices, code.indices)
        dictionary, code = better, refitted
    assert torch.allclose(dictionary.norms, torch.ones(48), atol=1e-5)


def test_an_atom_of_ksvd_comes_to_the_leading_singular_vector() -> None:
    """Against the definition: with one atom, rounds on the same support are the power method, and end at the SVD."""
    x = isotropic_noise(200, 6).double() * torch.tensor([3.0, 1, 1, 1, 1, 1])
    dictionary = Dictionary(torch.nn.functional.normalize(torch.ones(1, 6).double(), dim=1))
    code = OMP(k=1).encode(x, dictionary)
    for _ in range(60):
        dictionary, code = updated(dictionary, code, x)
    leading = torch.linalg.svd(x).Vh[0]
    assert abs(float(dictionary.atoms[0] @ leading)) == pytest.approx(1, abs=1e-9)


def test_greedy_atoms_are_signals_and_every_signal_is_explained_or_one() -> None:
    """One-sparse signals: ITDA takes one signal of each planted direction and no more."""
    amounts = 1 + torch.rand(2_000, 1, generator=torch.Generator().manual_seed(0))
    which = torch.arange(2_000) % 48
    x = (amounts * PLANTED.dictionary.atoms[which])[torch.randperm(2_000)]
    dictionary, encoder = ITDA(200, OMP(k=1), threshold=0.01).fit(x)
    assert dictionary.size == 48 and found(PLANTED.dictionary.atoms, dictionary.atoms) == 1.0
    assert report(encoder, dictionary, x).fvu < 1e-6


def test_greedy_building_stops_at_its_threshold_and_reads_no_further() -> None:
    x, read = signed(), []

    def stream() -> Iterator[Tensor]:
        for piece in x.split(500):
            read.append(len(piece))
            yield piece

    dictionary, encoder = ITDA(1_000, OMP(k=3), threshold=0.3, batch=500).fit(iter(x.split(500)))
    assert 48 <= dictionary.size < 1_000
    left = (x - dictionary.decode(encoder.encode(x))).square().sum(1) / x.square().sum(1)
    assert (left > 0.3).double().mean() < 0.05
    looser, _ = ITDA(1_000, OMP(k=3), threshold=0.6, batch=500).fit(x)
    assert looser.size < dictionary.size
    few, _ = ITDA(60, OMP(k=3), threshold=0.3, batch=500).fit(stream())
    assert few.size == 60 and sum(read) < len(x)
    unit = torch.nn.functional.normalize(x, dim=1)
    assert ((few.atoms @ unit.T).amax(1) > 1 - 1e-5).all()


def test_greedy_building_fills_the_dictionary_where_no_threshold_is_given() -> None:
    dictionary, _ = ITDA(128, OMP(k=3), batch=512).fit(signed())
    assert dictionary.size == 128


def test_greedy_building_finds_no_structure_in_noise() -> None:
    """The control: k atoms of noise explain new noise no better than random directions do."""
    dictionary, encoder = ITDA(96, OMP(k=3)).fit(isotropic_noise(3_000, 32, seed=3))
    new = isotropic_noise(1_000, 32, seed=8)
    chance = Dictionary(torch.nn.functional.normalize(isotropic_noise(96, 32, seed=9), dim=1))
    assert report(encoder, dictionary, new).fvu > report(OMP(k=3).over(chance), chance, new).fvu - 0.03


@pytest.mark.parametrize(
    ("learner", "signals", "sentence"),
    [
        (OnlineDictionaryLearning(0, OMP(k=1)), torch.ones(9, 4), "atoms is 0"),
        (OnlineDictionaryLearning(2, OMP(k=1), passes=0), torch.ones(9, 4), "passes is 0"),
        (OnlineDictionaryLearning(2, OMP(k=1), forget=-1.0), torch.ones(9, 4), "forget is -1"),
        (OnlineDictionaryLearning(2, OMP(k=3)), isotropic_noise(9, 4), "k = 3 atoms per signal cannot be selected"),
        (
            OnlineDictionaryLearning(2, OMP(k=1)),
            torch.ones(9, 4),
            "2 atoms cannot be learned from 9 signals with 1 distinct",
        ),
        (OnlineDictionaryLearning(2, OMP(k=1)), torch.zeros(9, 4), "with 0 distinct directions"),
        (OnlineDictionaryLearning(2, OMP(k=1)), torch.ones(9), r"Signals to learn from are \[9\]"),
        (OnlineDictionaryLearning(2, OMP(k=1)), np.array([["a"]]), "give real numbers"),
        (OnlineDictionaryLearning(2, OMP(k=1)), torch.full((9, 4), float("nan")), "Signal 0 is NaN"),
        (OnlineDictionaryLearning(2, OMP(k=1)), iter([]), "the stream was empty"),
        (OnlineDictionaryLearning(2, OMP(k=1)), [isotropic_noise(9, 4), torch.ones(9, 5)], "after 9 has width 5"),
        (KSVD(2, OMP(k=1), rounds=0), torch.ones(9, 4), "rounds is 0"),
        (KSVD(2, OMP(k=1), batch=0), torch.ones(9, 4), "batch is 0"),
        (KSVD(2, OMP(k=1)), [], "the stream was empty"),
        (ITDA(2, OMP(k=1), threshold=1.5), isotropic_noise(9, 4), "threshold is 1.5"),
        (ITDA(2, OMP(k=1)), iter([isotropic_noise(9, 4)]), "which a stream does not have"),
        (ITDA(2, OMP(k=1), threshold=0.1), iter([]), "the stream was empty"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(learner: Learner, signals: object, sentence: str) -> None:
    with pytest.raises(ClocheError, match=sentence):
        learner.fit(signals)  # type: ignore[arg-type]


def test_a_start_of_another_shape_is_refused() -> None:
    for learner in (OnlineDictionaryLearning(2, OMP(k=1)), KSVD(2, OMP(k=1))):
        with pytest.raises(ClocheError, match="start from is"):
            learner.fit(isotropic_noise(9, 32), start=PLANTED.dictionary)
