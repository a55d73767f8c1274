"""Transcoders and crosscoders on planted maps: what is read, what is written, and which site a feature lives in."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cloche.errors import ClocheError
from cloche.sparse import (
    SAE,
    BatchTopK,
    Dictionary,
    JumpReLU,
    SyntheticFeatures,
    TopK,
    Training,
    Wiring,
    isotropic_noise,
    load_sae,
    mean_max_cosine,
    train_sae,
)
from cloche.sparse.saes.kinds import Kind

PLANTED = SyntheticFeatures(width=24, features=48, active=3, zipf=0.5)
OTHER = SyntheticFeatures(
    width=32, features=48, active=3, zipf=0.5, seed=7
).dictionary  # what each feature says on the other side
SHORT = Training(steps=400, batch=512, lr=1e-2)
BRIEF = Training(steps=300, batch=256, lr=1e-2)


def pairs(n: int, seed: int, linear: Tensor | None = None) -> Tensor:
    """Rows [n, 24 + 32]: signals, and what the same features make of them through other atoms (and a linear map besides)."""
    x, code = PLANTED.sample(n, seed)
    y = OTHER.decode(code)
    return torch.cat([5 * x, 0.1 * (y if linear is None else y + x @ linear)], 1)


@pytest.mark.parametrize("kind", [TopK(), BatchTopK(), JumpReLU()], ids=str)
def test_a_transcoder_finds_what_each_feature_writes(kind: Kind, tmp_path: Path) -> None:
    wiring = Wiring((24,), (32,))
    sae, _ = train_sae(pairs(30_000, 1), 48, 3, SHORT, kind=kind, wiring=wiring, seed=1)
    rows = pairs(4_000, 9)
    measured = sae.report(rows)
    assert measured.l0 == pytest.approx(3, rel=0.02)
    assert mean_max_cosine(OTHER.atoms, sae.decoder.detach()) > 0.8 > mean_max_cosine(OTHER.atoms, TRANSCODER_CHANCE)
    code, target, reconstruction = sae.explain(rows)
    by_hand = (target - reconstruction).square().sum() / (target - target.mean(0)).square().sum()
    assert torch.equal(target, rows[:, 24:]) and measured.fvu == pytest.approx(float(by_hand), rel=1e-4)
    assert measured.fvu < 0.3
    torch.testing.assert_close(sae(rows[:, :24]).detach(), reconstruction, atol=1e-4, rtol=1e-4)
    sae.save(tmp_path / "kept")
    again = load_sae(tmp_path / "kept")
    assert again.wiring == wiring and torch.equal(again.explain(rows)[2], reconstruction)
    assert torch.equal(again.encode(rows[:, :24]).values, code.values)


TRANSCODER_CHANCE = SyntheticFeatures(width=32, features=48, seed=99).dictionary.atoms


def test_a_skip_takes_what_is_linear_and_leaves_the_features_alone() -> None:
    linear = torch.randn(24, 32, generator=torch.Generator().manual_seed(5)) / 3
    left = {}
    for skip in (False, True):
        wiring = Wiring((24,), (32,), skip=skip)
        sae, _ = train_sae(pairs(30_000, 1, linear), 48, 3, BRIEF, wiring=wiring, seed=1)
        rows = pairs(4_000, 9, linear)
        left[skip] = sae.report(rows).fvu
        torch.testing.assert_close(sae(rows[:, :24]).detach(), sae.explain(rows)[2], atol=1e-4, rtol=1e-4)
    assert left[True] < 0.6 * left[False]


def test_a_transcoder_of_what_does_not_follow_explains_nothing() -> None:
    rows = torch.cat([PLANTED.sample(20_000)[0], isotropic_noise(20_000, 32, 4)], 1)
    sae, _ = train_sae(rows, 48, 3, SHORT, wiring=Wiring((24,), (32,)), seed=1)
    fresh = torch.cat([PLANTED.sample(4_000, 9)[0], isotropic_noise(4_000, 32, 5)], 1)
    assert sae.report(fresh).fvu > 0.95


def test_a_crosscoder_says_in_which_site_each_feature_lives() -> None:
    """A third of the features are in both sites, a third in either one alone; the decoder's blocks must tell them apart."""
    lives = torch.arange(48) % 3  # 0 both, 1 the first alone, 2 the second alone
    x_atoms = PLANTED.dictionary.atoms * (lives != 2)[:, None]
    y_atoms = OTHER.atoms * (lives != 1)[:, None]

    def rows(n: int, seed: int) -> Tensor:
        code = PLANTED.sample(n, seed)[1]
        return torch.cat([3 * Dictionary(x_atoms).decode(code), Dictionary(y_atoms).decode(code)], 1)

    sae, _ = train_sae(rows(40_000, 1), 48, 3, SHORT, kind=BatchTopK(), wiring=Wiring((24, 32)), seed=1)
    measured = sae.report(rows(4_000, 9))
    assert measured.l0 == pytest.approx(3, rel=0.02) and measured.fvu < 0.2
    truth = torch.cat([x_atoms * sae.scale[0] * 3, y_atoms * sae.scale[-1]], 1)
    cosine = torch.nn.functional.normalize(truth, dim=1) @ sae.decoder.detach().T
    best = cosine.max(1)
    first, second = (block.norm(dim=1) for block in sae.blocks(sae.decoder.detach()[best.indices]))
    share = first.square() / (first.square() + second.square())
    found = best.values > 0.9
    assert found.float().mean() > 0.6
    assert share[found & (lives == 1)].min() > 0.9 and share[found & (lives == 2)].max() < 0.1
    assert share[found & (lives == 0)].median() == pytest.approx(0.5, abs=0.25)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Wiring(()), "has no sites"),
        (lambda: Wiring((4,), (0,)), "has no sites, or a width below 1"),
        (lambda: Wiring((4,), skip=True), "would explain all of it"),
        (lambda: train_sae(torch.randn(2_000, 7), 16, 2, wiring=Wiring((4,), (4,))), "needs \\[n, 8\\]"),
        (lambda: SAE(Wiring((4,), (4,)), 16, 2).explain(torch.randn(3, 4)), "concatenate what is read"),
        (lambda: SAE(Wiring((4,), (4,)), 16, 2).encode(torch.randn(3, 8)), "width 4"),
    ],
)
def test_misuse_gets_one_sentence(make, sentence: str) -> None:
    with pytest.raises(ClocheError, match=sentence):
        make()
