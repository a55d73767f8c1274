"""Sparse probes where the right units are known, beside scikit-learn, and where nothing is to be found."""

import numpy as np
import pytest
import torch

from cloche.errors import ClocheError
from cloche.interp.probing import probes
from cloche.interp.probing.probes import auroc, probe
from cloche.sparse import Code, SyntheticFeatures


def split(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(n) < 0.7


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Activations [n, 32], the code [n, 64] that made them, and labels: is planted feature 3, 20 or 41 active?"""
    x, code = SyntheticFeatures(width=32, features=64, active=4, seed=0).sample(4_000, seed=1)
    dense = code.dense().numpy()
    return x.numpy(), dense, dense[:, [3, 20, 41]] != 0


def test_the_true_code_needs_one_unit(planted) -> None:
    _, code, labels = planted
    for found, feature in zip(probe(code, labels, split(4_000)), (3, 20, 41), strict=True):
        one = found.by_k[1]
        assert one.chosen == (feature,)
        assert min(one.score.auroc, one.score.f1, one.score.accuracy, one.score.balanced_accuracy) > 0.999
        assert found.dense.auroc > 0.999


def test_a_rotated_code_needs_all_of_them(planted) -> None:
    _, code, labels = planted
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 64)))[0]
    for found in probe((code @ rotation).astype(np.float32), labels, split(4_000)):
        areas = [found.by_k[k].score.auroc for k in (1, 2, 4, 8, 16)]
        assert areas[0] < 0.9 and found.by_k[1].score.f1 < 0.7
        assert areas == sorted(areas)
        assert found.dense.auroc > 0.99 and found.dense.f1 > found.by_k[16].score.f1


def test_activations_in_superposition_lie_between(planted) -> None:
    x, code, labels = planted
    in_code, mixed = (probe(basis, labels, split(4_000)) for basis in (code, x))
    for a, b in zip(in_code, mixed, strict=True):
        assert b.by_k[1].score.auroc < b.by_k[16].score.auroc < b.dense.auroc <= a.by_k[1].score.auroc


def test_labels_in_disorder_are_chance(planted) -> None:
    _, code, labels = planted
    areas = [
        sparse.score.auroc
        for seed in range(3)
        for found in probe(code, labels, split(4_000), seed=seed)
        for sparse in found.shuffled.values()
    ]
    assert abs(np.mean(areas) - 0.5) < 0.02 and max(areas) < 0.62 and min(areas) > 0.38


def test_shuffled_labels_keep_their_rate_on_both_sides() -> None:
    rng = np.random.default_rng(1)
    label, train = rng.random(500) < 0.2, split(500)
    shuffled = probes._shuffled(label, rng.permutation(500), train)
    for side in (train, ~train):
        assert shuffled[side].sum() == label[side].sum() and not (shuffled[side] == label[side]).all()


def test_redundant_units_are_not_chosen_twice() -> None:
    """Ten copies of the best unit, and one of another that a label also depends on."""
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 3_000)) < 0.3
    x = np.column_stack(
        [*[a + 0.02 * rng.normal(size=3_000) for _ in range(10)], 0.8 * b, rng.normal(size=(3_000, 20))]
    )
    label = a | (b & (rng.random(3_000) < 0.9))
    found = probe(x.astype(np.float32), label[:, None], split(3_000))[0]
    assert found.by_k[1].chosen[0] < 10
    assert 10 in found.by_k[2].chosen and found.by_k[2].score.f1 > 0.93


def test_a_code_and_its_dense_form_say_the_same(planted) -> None:
    _, code, labels = planted
    values, indices = torch.from_numpy(code).sort(dim=1, descending=True, stable=True)
    as_code = Code(indices[:, :6], values[:, :6], 64)
    np.testing.assert_array_equal(as_code.dense().numpy(), code)
    one, other = (probe(x, labels, split(4_000), ks=(1, 3)) for x in (code, as_code))
    for a, b in zip(one, other, strict=True):
        assert [s.chosen for s in a.by_k.values()] == [s.chosen for s in b.by_k.values()]
        assert a.dense.auroc == pytest.approx(b.dense.auroc, abs=1e-4)


def test_fits_are_those_of_scikit_learn(planted) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    x, _, labels = planted
    units = probes._Units(x, np.ones(len(x), bool))
    standard = units.some(range(32), True)
    theirs = linear.LogisticRegression(
        C=1 / (probes.PENALTY * len(x)), class_weight="balanced", tol=1e-9, max_iter=5_000
    )
    joint = probes._dense(units, labels)
    for i, label in enumerate(labels.T):
        theirs.fit(standard, label)
        ours = probes._fit(standard, label)
        np.testing.assert_allclose(ours.weights[:, 0], theirs.coef_[0], atol=1e-4)
        np.testing.assert_allclose(ours.offsets, theirs.intercept_, atol=1e-4)
        np.testing.assert_allclose(joint.weights[:, i], theirs.coef_[0], atol=0.02)
        np.testing.assert_allclose(ours.scores[:, 0], theirs.decision_function(standard), atol=1e-3)


def test_figures_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    label = rng.random(300) < 0.2
    scores = np.round(label + rng.normal(size=300), 1)  # with ties
    assert auroc(scores, label) == pytest.approx(metrics.roc_auc_score(label, scores))
    ours = probes._score(scores, label, scores, label)
    cuts = [-np.inf, *np.unique(scores)]
    best = {
        name: max(figure(label, scores > cut) for cut in cuts)
        for name, figure in (
            ("accuracy", metrics.accuracy_score),
            ("balanced_accuracy", metrics.balanced_accuracy_score),
            ("f1", metrics.f1_score),
        )
    }
    assert {name: getattr(ours, name) for name in best} == pytest.approx(best)


def test_separable_and_silent_units_are_no_trouble() -> None:
    label = np.arange(200) % 5 == 0
    x = np.column_stack([label, np.zeros(200), np.ones(200)]).astype(np.float32)
    found = probe(x, label[:, None], split(200), ks=(1, 16))[0]
    assert found.by_k[1].chosen == found.by_k[16].chosen == (0,) and found.by_k[1].score.f1 == 1
    nothing = probe(np.zeros((200, 3), np.float32), label[:, None], split(200), ks=(1,))[0]
    assert nothing.by_k[1].chosen == () and nothing.by_k[1].score.auroc == 0.5


X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
EVEN = (np.arange(40) % 2 == 0)[:, None]
HALF = np.arange(40) < 20


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((X, EVEN, HALF, ()), "from 1 to 64"),
        ((X, EVEN, HALF, (0, 1)), "from 1 to 64"),
        ((X, EVEN, HALF, (65,)), "from 1 to 64"),
        ((X[:30], EVEN, HALF), "rows that agree"),
        ((X, EVEN[:, 0], HALF), "rows that agree"),
        ((X, np.ones((40, 1), bool), HALF), "both classes"),
        ((X, EVEN, np.ones(40, bool)), "both classes"),
        ((X, HALF[:, None], HALF), "both classes"),
        ((np.where(np.eye(40, 3) == 1, np.nan, X), EVEN, HALF), "not a number"),
    ],
)
def test_misuse_of_probes_gets_one_sentence(arguments, sentence: str) -> None:
    with pytest.raises(ClocheError, match=sentence):
        probe(*arguments)


def test_the_same_seed_gives_the_same_probes(planted) -> None:
    _, code, labels = planted
    train = torch.from_numpy(split(4_000)).numpy()
    assert probe(code, labels[:, :1], train, seed=4) == probe(code, labels[:, :1], train, seed=4)
