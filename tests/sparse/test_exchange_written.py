"""Our autoencoders in SAELens' format: the same codes and reconstructions when they come back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from foreign_saes import FEATURES, WIDTH, K, near, ours, signals

from cloche.errors import ClocheError
from cloche.sparse import SAE, BatchTopK, Gated, JumpReLU, ReLU, TopK, Wiring, load_sae, save_saelens
from cloche.sparse.saes import FeatureActs, Kind

WIRINGS = [WIDTH, Wiring((WIDTH,), (7,)), Wiring((WIDTH,), (7,), skip=True)]
WRITTEN = [(kind, wiring) for kind in (ReLU(), BatchTopK(nested=(8,)), JumpReLU()) for wiring in WIRINGS]
WRITTEN += [(kind, WIDTH) for kind in (TopK(), Gated())]


@pytest.mark.parametrize("threshold", [0.4, 0.0, -0.3])
@pytest.mark.parametrize(("kind", "wiring"), WRITTEN, ids=str)
def test_ours_come_back_from_saelens_format(
    kind: Kind, wiring: Wiring | int, threshold: float, tmp_path: Path, rng: torch.Generator
) -> None:
    sae, x = ours(kind, rng, wiring, threshold), signals(rng)
    back = load_sae(save_saelens(sae, tmp_path / "out"))
    near(back.encode(x).dense(), sae.encode(x).dense())
    near(back(x).detach(), sae(x).detach())
    assert back.wiring == sae.wiring and back.l0 == sae.l0 and back.trained_on == sae.trained_on
    assert back.kind == kind or (kind == ReLU() and threshold > 0 and back.kind == JumpReLU())


def test_what_saelens_has_not_is_not_written(tmp_path: Path, rng: torch.Generator) -> None:
    for kind in (TopK(), Gated()):
        with pytest.raises(ClocheError, match=f"no transcoder of kind {kind}"):
            save_saelens(ours(kind, rng, Wiring((WIDTH,), (7,))), tmp_path / "out")
    with pytest.raises(ClocheError, match="reads 2 sites and writes 2, like this crosscoder"):
        save_saelens(SAE(Wiring((6, 6)), FEATURES, K, ReLU()), tmp_path / "out")
    assert not any(tmp_path.iterdir())
    save_saelens(ours(ReLU(), rng), tmp_path / "out")
    with pytest.raises(ClocheError, match="exists already"):
        save_saelens(ours(ReLU(), rng), tmp_path / "out")


@dataclass(frozen=True, kw_only=True)
class RootPenalty(Kind):
    """A kind of somebody else's, trained with another penalty: as any, its features are active above a threshold."""

    def activate(self, pre, extra):
        return FeatureActs(pre.relu(), pre.relu().sqrt().sum())


@dataclass(frozen=True, kw_only=True)
class Squared(RootPenalty):
    """One whose activations SAELens does not compute."""

    def magnitude(self, pre, extra):
        return pre.relu() ** 2


def test_a_kind_of_somebody_elses_is_written_where_saelens_computes_the_same(
    tmp_path: Path, rng: torch.Generator
) -> None:
    sae, x = ours(RootPenalty(), rng, WIDTH, 0.4), signals(rng)
    back = load_sae(save_saelens(sae, tmp_path / "out"))
    near(back.encode(x).dense(), sae.encode(x).dense())
    assert back.kind == JumpReLU()
    with pytest.raises(ClocheError, match=r"no counterpart of .*Squared"):
        save_saelens(ours(Squared(), rng, WIDTH, 0.4), tmp_path / "more")
