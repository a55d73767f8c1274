"""Autoencoders of every kind: the planted dictionary is found at the wanted L0, nothing is found in noise, files round-trip."""

import json
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
import torch

from cloche.errors import ClocheError
from cloche.sparse import (
    SAE,
    BatchTopK,
    Dictionary,
    Gated,
    JumpReLU,
    ReLU,
    SyntheticFeatures,
    TopK,
    Training,
    gap_report,
    grade,
    isotropic_noise,
    load_sae,
    report,
    train_sae,
)
from cloche.sparse.pursuit import OMP
from cloche.sparse.saes.kinds import Kind

PLANTED = SyntheticFeatures(width=32, features=64, active=3, zipf=0.5)
SHORT = Training(steps=450, batch=512, lr=9e-3)
BRIEF = Training(steps=250, batch=512, lr=1e-2)
KNOWN = [BatchTopK(), ReLU(), Gated(), JumpReLU(), TopK()]


@cache
def learned(kind: Kind) -> SAE:
    return train_sae(PLANTED.sample(20_000)[0] * 7, 64, 3, SHORT, kind=kind, seed=1)[0]


# A penalty on the values or a window of a threshold finds fewer of the atoms in so short a run; chance is 0.51.
@pytest.mark.parametrize(
    ("kind", "least"),
    [(BatchTopK(), 0.93), (Gated(), 0.91), (ReLU(), 0.78), pytest.param(JumpReLU(), 0.85, marks=pytest.mark.slow)],
    ids=str,
)
def test_every_kind_finds_the_planted_atoms_at_the_wanted_l0(kind: Kind, least: float, tmp_path: Path) -> None:
    sae, (x, code) = learned(kind), PLANTED.sample(6_000, seed=9)
    result = report(sae, sae.dictionary, x * 7, truth=PLANTED.dictionary.atoms)
    assert result.l0 == pytest.approx(3, rel=0.02)  # on signals it has not seen
    assert result.cosine is not None and result.cosine > least
    graded = grade(sae, sae.dictionary, x * 7, PLANTED.dictionary, code)
    assert graded.cosine > least - 0.08 and graded.f1 > 0.55
    sae.save(tmp_path / "kept")
    again = load_sae(tmp_path / "kept")
    assert isinstance(again, SAE) and again.kind == sae.kind and again.l0 == 3
    assert torch.equal(again.encode(x).dense(), sae.encode(x).dense())


def test_a_penalty_on_the_values_shrinks_them_and_a_gate_does_not() -> None:
    x, code = PLANTED.sample(6_000, seed=9)
    slopes = {
        str(kind): grade(sae, sae.dictionary, x * 7, PLANTED.dictionary, code).shrinkage / 7
        for kind in (ReLU(), Gated())
        for sae in [learned(kind)]
    }
    assert slopes["ReLU"] < 0.7 < 0.85 < slopes["Gated"] < 1.1


def test_two_learners_do_not_agree_on_noise() -> None:
    first, second = (
        train_sae(isotropic_noise(20_000, 32, s), 64, 3, BRIEF, kind=JumpReLU(), seed=s)[0] for s in (1, 2)
    )
    code = Dictionary(second.dictionary.atoms)
    result = report(first, first.dictionary, isotropic_noise(2_000, 32, 3), truth=code.atoms)
    assert result.cosine is not None and result.cosine < 0.55  # random directions score about 0.51


def test_nested_features_reconstruct_alone() -> None:
    """The leading half of a nested autoencoder explains more than the leading half of one that is not."""
    x = PLANTED.sample(4_000, seed=9)[0] * 7
    left = []
    for nested in ((), (32,)):
        sae = learned(BatchTopK(nested=nested))
        code = sae.encode(x)
        code.values[code.indices >= 32] = 0
        left.append(float((x - sae.decode(code)).square().sum() / (x - x.mean(0)).square().sum()))
    assert left[1] < 0.8 * left[0]


@pytest.mark.parametrize("kind", KNOWN, ids=str)
def test_the_auxiliary_loss_reaches_the_dead_rows_of_encoder_and_decoder(kind: Kind) -> None:
    sae, x = SAE(16, 32, 4, kind, seed=0), torch.randn(64, 16)
    dead = torch.tensor([3, 17])
    sae.explain_error(x, torch.randn(64, 16), dead, 2).backward()
    for weight in (sae.encoder, sae.decoder):
        assert weight.grad is not None
        touched = weight.grad.abs().sum(1).nonzero().squeeze(1)
        assert touched.tolist() == dead.tolist()


def test_the_threshold_of_a_jump_learns_through_its_window() -> None:
    """Against the paper's pseudo-derivatives, written out for one feature (2407.14435, equations 11 and 12)."""
    kind, pre = JumpReLU(), torch.tensor([[0.1], [0.95], [1.04], [3.0]])
    log_threshold = torch.zeros(1, requires_grad=True)  # a threshold of one
    acts = kind.activate(pre, {"log_threshold": log_threshold.expand(4, 1), "window": torch.tensor(0.2)})
    assert acts.values.squeeze().tolist() == pytest.approx([0, 0, 1.04, 3.0])
    assert acts.penalty is not None
    (by_values,) = torch.autograd.grad(acts.values.sum(), log_threshold, retain_graph=True)
    (by_count,) = torch.autograd.grad(acts.penalty, log_threshold)
    assert float(by_values) == pytest.approx(-2 / 0.2)  # two of four lie within 0.1 of it
    assert float(by_count) == pytest.approx(-2 / 0.2)


def test_the_gap_is_put_where_it_was_planted() -> None:
    x, _ = PLANTED.sample(2_000, seed=9)
    truth = PLANTED.dictionary
    perfect = gap_report(OMP(k=3).over(truth), truth, x, truth)
    assert abs(perfect.of_encoder) < 0.02 and perfect.of_dictionary == pytest.approx(0, abs=0.02)
    careless = SAE(32, 64, 3, ReLU(), seed=0)  # the true atoms behind an encoder that knows nothing of them
    with torch.no_grad():
        careless.decoder.copy_(truth.atoms)
    careless.calibrate(x)
    blame = gap_report(careless, careless.dictionary, x, truth)
    assert blame.of_encoder > 0.3 and blame.of_dictionary is not None and abs(blame.of_dictionary) < 0.02
    other = SyntheticFeatures(width=32, features=64, active=3, seed=5).dictionary
    wrong = gap_report(OMP(k=3).over(other), other, x, truth)
    assert wrong.of_dictionary is not None and wrong.of_dictionary > 0.2 and abs(wrong.of_encoder) < 0.1
    assert str(wrong).count("\n") == 4


def test_a_grade_of_known_answers() -> None:
    x, code = PLANTED.sample(1_000, seed=3)
    truth = PLANTED.dictionary
    exact = grade(_Given(code, 1.0), truth, x, truth, code)
    assert exact.cosine == pytest.approx(1) and exact.f1 == 1 and exact.shrinkage == pytest.approx(1)
    assert exact.partner.tolist() == list(range(64))
    assert grade(_Given(code, 0.6), truth, x, truth, code).shrinkage == pytest.approx(0.6)
    other = SyntheticFeatures(width=32, features=64, seed=5)
    chance = grade(_Given(other.sample(1_000)[1], 1.0), other.dictionary, x, truth, code)
    assert chance.cosine < 0.5 and chance.f1 < 0.2
    with pytest.raises(ClocheError, match="the code that made them"):
        grade(_Given(code, 1.0), truth, x[:5], truth, code)


class _Given:
    """An encoder that hands out a code it was given, in order, its values scaled."""

    def __init__(self, code, factor: float) -> None:
        self.code, self.factor, self.at = code, factor, 0

    def encode(self, x):
        rows = slice(self.at, self.at + len(x))
        self.at += len(x)
        return type(self.code)(self.code.indices[rows], self.code.values[rows] * self.factor, self.code.size)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"l0": 65}, "choose an l0 above 0 and at most 64"),
        ({"l0": 0}, "choose an l0 above 0"),
        ({"kind": ReLU(nested=(64,))}, "from 1 to 63"),
        ({"kind": BatchTopK(nested=(32, 16))}, "must increase"),
        ({"activations": torch.full((2_000, 8), torch.nan)}, "contains NaN"),
        ({"activations": torch.ones(2_000, 8)}, "All activations are equal"),
    ],
)
def test_misuse_gets_one_sentence(options: dict, sentence: str) -> None:
    given = {"activations": torch.randn(2_000, 8), "features": 64, "l0": 4, "training": Training(steps=3, batch=256)}
    with pytest.raises(ClocheError, match=sentence):
        train_sae(**given | options)


def test_a_run_too_short_to_reach_its_l0_says_so() -> None:
    x = PLANTED.sample(2_000)[0]
    with pytest.warns(UserWarning, match="active features instead of 60"):
        train_sae(x, 64, 60, Training(steps=3, batch=256), kind=ReLU())


def test_a_saved_kind_keeps_its_settings(tmp_path: Path) -> None:
    SAE(8, 16, 2, JumpReLU(bandwidth=0.5)).save(tmp_path / "wide")
    again = load_sae(tmp_path / "wide")
    assert isinstance(again, SAE) and again.kind == JumpReLU(bandwidth=0.5)


def test_a_kind_as_it_was_saved_at_first_is_read(tmp_path: Path) -> None:
    SAE(8, 16, 2, JumpReLU(nested=(4,), bandwidth=0.5)).save(tmp_path / "first")
    path = tmp_path / "first/dictionary.json"
    card = json.loads(path.read_text()) | {"kind": "jumprelu-sae", "settings": {"nested": [4], "bandwidth": 0.5}}
    path.write_text(json.dumps(card))
    assert load_sae(tmp_path / "first").kind == JumpReLU(nested=(4,), bandwidth=0.5)
    path.write_text(json.dumps(card | {"settings": {"width": 3}}))
    with pytest.raises(ClocheError, match=r"dictionary.json: kind\] JumpReLU has no field 'width'; known are"):
        load_sae(tmp_path / "first")


@pytest.mark.slow
def test_the_wanted_l0_is_that_of_signals_never_seen() -> None:
    """Passed over twenty times, few signals are known by heart: on them fewer features answer than on others."""
    truth = SyntheticFeatures(width=64, features=512, active=6, noise=0.1)
    x, fresh = truth.sample(34_000)[0], truth.sample(8_000, seed=9)[0]
    sae, _ = train_sae(x, 512, 6, Training(steps=1_300, batch=512, lr=3e-3), kind=BatchTopK(), seed=1)
    assert sae.report(fresh).l0 == pytest.approx(6, rel=0.02)
    assert sae.report(x).l0 < 0.97 * sae.report(fresh).l0


@pytest.mark.parametrize("kind", [BatchTopK(), BatchTopK(nested=(64,)), ReLU(), Gated(), JumpReLU()], ids=str)
def test_a_stream_read_once_lands_on_the_l0_of_signals_never_seen(kind: Kind) -> None:
    truth = SyntheticFeatures(width=32, features=128, active=5, noise=0.05)
    once = islice(truth.stream(512), 200)
    sae, _ = train_sae(once, 128, 5, Training(steps=200, batch=512, lr=8e-3), kind=kind, seed=1)
    assert sae.report(truth.sample(10_000, seed=9_999)[0]).l0 == pytest.approx(5, rel=0.02)
