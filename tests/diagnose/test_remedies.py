"""Planted faults whose own remedy survives, and others' do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.diagnose.damage import damage
from bench.diagnose.planted import Coarse
from cloche.diagnose import (
    FullPrecision,
    LowerRate,
    NominalInitialisation,
    Remedy,
    SmallerScores,
    TrainAll,
    WithoutBatches,
    WithoutDecay,
    WithoutRows,
    WithoutUnusualRows,
    prove_remedies,
)
from cloche.drawing import as_text
from cloche.errors import CorpusEmpty, NotFinite
from cloche.runs import Run
from cloche.train import AdamW, Recipe, Replay, Trainer, prepare_data


def trained(recipe: Recipe, path: Path, spoil: Callable[[Run, Recipe], None] | None = None) -> Run:
    run = Run.create(path, recipe.to_toml(), recipe.run.seed)
    prepare_data(recipe, run)
    if spoil is not None:
        spoil(run, recipe)
    try:
        for _ in Trainer.start(recipe, run):
            pass
    except NotFinite:  # its log says so
        pass
    return run


USUAL = {"run.steps": 140, "checkpoint.count": 14, "log.every": 5, "model.tied": False, "log.health_every": 100}


SLOWLY = {"schedule": "WSD(warmup=1.0)", "optimizer": "SGD(lr=0.6, momentum=0.9, clip=1e30)"}
SHARP = "ScoredAttention(Attention(2, position=RoPE()), scale=256.0)"


def blank(run: Run, recipe: Recipe) -> None:
    damage(run.path, recipe, dict.fromkeys(range(60, 100), 4), lambda tokens: np.full_like(tokens, 7))


def shuffled(run: Run, recipe: Recipe) -> None:
    damage(run.path, recipe, dict.fromkeys(range(60, 140), 2), np.random.default_rng(0).permutation)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "spoil", "onset", "own", "other"),
    [
        ({}, blank, 61, WithoutBatches(tuple(range(61, 101))), WithoutBatches((30, 130))),
        ({}, shuffled, 61, WithoutUnusualRows(), LowerRate()),
        (SLOWLY | {"initialisation": "Normal(std=2.0)"}, None, 60, NominalInitialisation(), None),
        (SLOWLY | {"model.body.block.mix": SHARP}, None, 90, SmallerScores(), None),
    ],
)
def test_the_remedy_of_what_was_planted_survives(
    tiny: Recipe, tmp_path: Path, settings: Any, spoil: Any, onset: int, own: Remedy, other: Remedy | None
) -> None:
    run = trained(tiny.with_set(USUAL | settings), tmp_path / "run", spoil)
    proof = prove_remedies(run, onset, [own, other] if other else [own], horizon=62)
    assert [each.remedy for each in proof.proved] == [own], proof.sentence


@pytest.mark.slow
def test_weights_in_few_bits_are_found_and_kept_in_full(tiny: Recipe, tmp_path: Path) -> None:
    coarse = Coarse(AdamW(lr=0.01), bits=1, lr=0.01).to_dict()
    run = trained(tiny.with_set(USUAL | {"run.steps": 60, "optimizer": coarse}), tmp_path / "run")
    proof = prove_remedies(run, 45, [FullPrecision()], checkpoint=0, horizon=15)
    (attempt,), found = proof.attempts, proof.of(FullPrecision())
    assert found is not None and not proof.proved and found.loss < 0.9 * attempt.control.loss
    assert "AdamW in place of Coarse" in as_text(proof.table())
    plain = trained(tiny.with_set({"run.steps": 4}), tmp_path / "plain")
    assert prove_remedies(plain, 2, [FullPrecision()]).left_out == (FullPrecision().phrase,)


def test_what_is_frozen_is_trained_and_what_decays_does_not(tiny: Recipe, tmp_path: Path) -> None:
    optimizer = "AdamW(lr=0.01, groups=[Group('layers.*', lr=0.0)])"
    run = trained(tiny.with_set({"run.steps": 4, "optimizer": optimizer}), tmp_path / "run")
    replay = Replay(run, run.checkpoint(0), 4)
    frozen = replay.trainer.net.layers[0].mix.qkv.weight
    before = frozen.clone()
    replay.advance(2)
    assert torch.equal(frozen, before)
    trainer = replay.restart(monitors=False)
    frozen = trainer.net.layers[0].mix.qkv.weight
    assert TrainAll().applies(trainer) and WithoutDecay().applies(trainer)
    TrainAll().apply(trainer)
    WithoutDecay().apply(trainer)
    assert not WithoutDecay().applies(trainer)
    replay.advance(2)
    assert not torch.equal(frozen, before)


def test_rows_that_are_flagged_are_not_trained_on(tiny: Recipe, tmp_path: Path) -> None:
    run = trained(tiny.with_set({"run.steps": 4}), tmp_path / "run")
    usual = Replay(run, run.checkpoint(0), 4).trainer.source
    rows = torch.cat([usual.at(i).ids for i in range(3)])
    kept = rows[rows[:, 0] % 2 == 0]
    trainer = Replay(run, run.checkpoint(0), 4).trainer
    WithoutRows(lambda ids: ids[:, 0] % 2 == 1).apply(trainer)
    found = trainer.source.next().ids
    assert found.shape == usual.at(0).ids.shape and torch.equal(found, kept[: len(found)])
    WithoutBatches((1, 3)).apply(trainer := Replay(run, run.checkpoint(0), 4).trainer)
    assert [torch.equal(trainer.source.next().ids, usual.at(i).ids) for i in (1, 3)] == [True, True]
    WithoutRows(lambda ids: torch.ones(len(ids), dtype=torch.bool)).apply(trainer)
    with pytest.raises(CorpusEmpty, match="flag fewer"):
        trainer.source.next()
