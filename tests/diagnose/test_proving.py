"""A run that broke is trained again with one change at a time: the remedy of what was planted survives, others do not."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from cloche.diagnose import (
    LowerRate,
    Proof,
    Remedy,
    TrainAll,
    WarmUp,
    WithNorm,
    WithoutBatches,
    prove_remedies,
)
from cloche.drawing import as_text
from cloche.errors import ArgumentInvalid, CheckpointMissing, NotFinite
from cloche.files import sha256_of
from cloche.runs import Run
from cloche.train import Recipe, Trainer

BROKEN = {"run.steps": 80, "schedule": "WSD(warmup=1.0)", "checkpoint.count": 8, "log.every": 1}


def broken(recipe: Recipe, path: Path) -> Run:
    """Trains a run that ends before its time."""
    run = Run.create(path, recipe.to_toml(), recipe.run.seed)
    with pytest.raises(NotFinite):
        for _ in Trainer.start(recipe, run):
            pass
    return run


@pytest.fixture(scope="session")
def fast(tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A rate that rises until it is too high: it diverges at step 46."""
    settings = BROKEN | {"model.tied": False, "optimizer": "SGD(lr=2.0, momentum=0.9, clip=1e30)"}
    return broken(tiny.with_set(settings), tmp_path_factory.mktemp("fast") / "run")


@pytest.fixture(scope="session")
def bare(tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """No norm anywhere: it diverges at step 49."""
    optimizer = "SGD(lr=1.0, momentum=0.9, clip=1e30)"
    settings = BROKEN | {"model.norm": "NoNorm", "model.body.block.norm": "NoNorm", "optimizer": optimizer}
    return broken(tiny.with_set(settings), tmp_path_factory.mktemp("bare") / "run")


def files(run: Run) -> dict[Path, str]:
    return {path: sha256_of(path) for path in sorted(run.path.rglob("*")) if path.is_file()}


def outcome(proof: Proof, remedy: Remedy) -> str:
    found = proof.of(remedy)
    assert found is not None
    return found.verdict


def test_a_rate_too_high_is_proved_and_the_run_is_left_as_it_was(fast: Run) -> None:
    before, state, told = files(fast), torch.get_rng_state(), []
    remedies = [WithoutBatches((44,)), LowerRate(0.1), WithNorm(), TrainAll()]
    proof = prove_remedies(fast, 44, remedies, on_progress=lambda done, total, note: told.append((done, total, note)))
    (attempt,) = proof.attempts
    assert attempt.control.diverged == 46 and attempt.control.begun == 40
    assert [each.remedy for each in proof.proved] == [LowerRate(0.1)]
    assert outcome(proof, WithoutBatches((44,))).startswith("diverges at step")
    assert attempt.null is not None and attempt.null.diverged is not None and not attempt.null.same
    assert proof.sentence.endswith("without batch 44 it still breaks; at a tenth of the rate it does not.")
    assert proof.left_out == (WithNorm().phrase, TrainAll().phrase)
    assert "at a tenth of the rate" in as_text(proof.table())
    assert files(fast) == before and torch.equal(torch.get_rng_state(), state)
    assert all(0 < done <= total for done, total, _ in told) and told[0][2] == "no change: step 41"


def test_a_missing_norm_is_put_in_without_changing_the_function_much(bare: Run) -> None:
    proof = prove_remedies(bare, 44, [WithNorm()])
    (found,) = proof.proved
    assert found.remedy == WithNorm()
    moved = re.search(r"3 norms in moved the logits by ([\d.]+)%", found.note)
    assert moved and float(moved[1]) < 25


def test_what_does_nothing_is_no_proof(fast: Run) -> None:
    proof = prove_remedies(fast, 44, [LowerRate(1.0)], horizon=22)
    assert not proof.proved and len(proof.attempts) == 3, "the checkpoints before are tried too"
    assert {each.verdict for attempt in proof.attempts for each in attempt.remedies} == {"makes no difference"}


def test_without_divergence_nothing_is_proved(fast: Run) -> None:
    proof = prove_remedies(fast, 15, [LowerRate()], horizon=5)
    assert not proof.proved and "no remedy can be proved" in proof.sentence


def test_a_replay_that_is_not_the_run_is_refused_in_a_sentence(fast: Run, tmp_path: Path) -> None:
    copy = Run.open(shutil.copytree(fast.path, tmp_path / "run"))
    log = copy.path / "log" / "metrics.jsonl"
    text = log.read_text()
    weights = next(json.loads(line)["weights"] for line in text.splitlines() if json.loads(line)["step"] == 43)
    log.write_text(text.replace(weights, "0" * 16))
    proof = prove_remedies(copy, 44, [LowerRate()])
    assert not proof.attempts and "other weights at step 43 than its log says" in proof.refused == proof.sentence
    log.write_text(text)
    events = copy.path / "log" / "events.jsonl"
    events.write_text(events.read_text().replace(f'"torch": "{torch.__version__}"', '"torch": "1.0"'))
    assert "was trained with torch 1.0" in prove_remedies(copy, 44, [LowerRate()]).refused


def test_what_a_run_does_not_have_is_said(fast: Run, tmp_path: Path) -> None:
    with pytest.raises(ArgumentInvalid):
        WithoutBatches(())
    with pytest.raises(CheckpointMissing):
        prove_remedies(fast, 44, checkpoint=41)
    copy = Run.open(shutil.copytree(fast.path, tmp_path / "run"))
    for saved in copy.checkpoints():
        copy.remove_checkpoint(saved.step)
    assert "has no checkpoint before step 44" in prove_remedies(copy, 44).refused


def test_an_interrupted_proof_leaves_everything_as_it_was(fast: Run) -> None:
    before, state, threads = files(fast), torch.get_rng_state(), torch.get_num_threads()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prove_remedies(fast, 44, [LowerRate()], on_progress=interrupt)
    assert files(fast) == before and torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads


def test_a_ramp_begins_at_the_checkpoint(fast: Run) -> None:
    from cloche.train import Replay

    trainer = Replay(fast, fast.checkpoint(40), 80).trainer
    usual = [trainer.plan.rate(step) for step in range(40, 50)]
    WarmUp(0.1).apply(trainer)
    ramped = [trainer.plan.rate(step) for step in range(40, 50)]
    assert ramped == pytest.approx([rate * min(1, (i + 1) / 8) for i, rate in enumerate(usual)])
