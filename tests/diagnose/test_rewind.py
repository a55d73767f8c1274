"""Any step rebuilt from the checkpoint before it: equal to what the run had there, bit by bit, or refused."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import cloche
from cloche.diagnose import prove, rewind
from cloche.errors import ArgumentInvalid, CheckpointMissing, FolderForeign, ResumeRefused, RunDamaged
from cloche.runs import Run, verify
from cloche.runs.checkpoints import _seal
from cloche.train import Callback, Every, Recipe, Trainer, weights_hash


class Watch(Callback):
    """The hash of the weights after each step."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(Every(trainer.plan, 1))
        self.net, self.seen = trainer.net, {trainer.step: weights_hash(trainer.net)}

    def run(self, step: int) -> list[Any]:
        self.seen[step] = weights_hash(self.net)
        return []


def trained(trainer: Trainer) -> dict[int, str]:
    """Trains to the end."""
    watch = Watch(trainer)
    trainer.callbacks.append(watch)
    for _ in trainer:
        pass
    return watch.seen


def begun(tiny: Recipe, path: Path, **changes: Any) -> tuple[Run, Trainer]:
    recipe = tiny.with_set({key.replace("__", "."): value for key, value in changes.items()})
    run = Run.create(path, recipe.to_toml(), recipe.run.seed)
    return run, Trainer.start(recipe, run)


def test_steps_are_rebuilt_and_nothing_is_written_but_a_checkpoint(tiny: Recipe, tmp_path: Path) -> None:
    run, trainer = begun(tiny, tmp_path / "run", log__every=1, schedule__accumulate=2, schedule__ramp=0.5)
    steps = trained(trainer)
    records = [record for record in run.read_log("metrics") if "weights" in record]
    assert {record["step"]: record["weights"] for record in records} == {s: h[:16] for s, h in steps.items() if s}
    logs = {path: path.read_bytes() for path in (run.path / "log").iterdir()}
    for step in (3, 7):
        found = rewind(run, step)
        assert found.weights == steps[step] == weights_hash(cloche.load(run, step).net) and found.logged == step
        assert found.begun < step
    assert rewind(run, 5, tmp_path / "aside").path == tmp_path / "aside" / "step-000005"
    assert weights_hash(cloche.load(tmp_path / "aside" / "step-000005").net) == steps[5]
    assert rewind(run, 12).begun == 12, "there is one already"
    assert logs == {path: path.read_bytes() for path in (run.path / "log").iterdir()}
    assert not verify(run.path).problems and prove(run, 3) == (prove(run, 3)[0], [])
    # training goes on from a rebuilt step as if it had been saved there
    for later in run.checkpoints():
        if later.step > 7:
            run.remove_checkpoint(later.step)
    assert trained(Trainer.resume(run))[12] == steps[12]
    assert not verify(run.path).problems


def test_a_folder_of_somebody_elses_is_left_as_it_is(tiny: Recipe, tmp_path: Path) -> None:
    run, trainer = begun(tiny.with_set({"run.steps": 4}), tmp_path / "run")
    trained(trainer)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    with pytest.raises(FolderForeign):
        rewind(run, 2, tmp_path / "foreign")
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["notes.txt"]
    for step in (2, 3):  # into one folder
        assert rewind(run, step, tmp_path / "own").path.parent == tmp_path / "own"


def test_a_forged_checkpoint_is_found_and_a_genuine_run_passes(tiny: Recipe, tmp_path: Path) -> None:
    run, trainer = begun(tiny, tmp_path / "run")
    trained(trainer)
    assert not prove(run, 99)[1]
    last = run.checkpoint("last").path
    weights = load_file(last / "model.safetensors")
    name = next(iter(weights))
    weights[name] = weights[name] * 1.001
    save_file(weights, last / "model.safetensors", {"format": "pt"})
    (last / "manifest.json").unlink()
    _seal(last, 12, {})
    assert not [problem for problem in verify(run.path).problems if "model.safetensors" in problem.where]
    (problem,) = prove(run, 99)[1]
    assert problem.where == "checkpoints/step-000012/model.safetensors" and "training from" in problem.what


def test_what_would_not_be_exact_is_refused(tiny: Recipe, tmp_path: Path) -> None:
    run, trainer = begun(tiny, tmp_path / "run")
    steps = trained(trainer)
    resumed = Trainer.resume(run, {"run.steps": 20, "optimizer.lr": 0.003})
    steps |= trained(resumed)
    assert rewind(run, 7).weights == steps[7] and rewind(run, 17).weights == steps[17], "each by its own recipe"
    with pytest.raises(ArgumentInvalid, match="no step 21"):
        rewind(run, 21)
    run.remove_checkpoint(12)
    run.remove_checkpoint(17)
    with pytest.raises(ResumeRefused, match=r"optimizer\.lr"):
        rewind(run, 16)
    events = run.path / "log" / "events.jsonl"
    written = events.read_bytes()
    events.write_bytes(written.replace(b'"torch": "', b'"torch": "0.'))
    assert events.read_bytes() != written
    with pytest.raises(ResumeRefused, match="torch"):
        rewind(run, 5)
    events.write_bytes(written)
    shard = run.path / "data" / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[::-1])
    with pytest.raises(RunDamaged, match="train-00000"):
        rewind(run, 5)
    for checkpoint in run.checkpoints():
        run.remove_checkpoint(checkpoint.step)
    with pytest.raises(CheckpointMissing):
        rewind(run, 5)


@pytest.mark.slow
def test_a_run_of_minutes_that_was_planned_again_is_rebuilt(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = itertools.count(0.0, 0.001)
    monkeypatch.setattr(Trainer, "clock", staticmethod(lambda: next(times)))
    run, trainer = begun(tiny, tmp_path / "run", run__steps=300, checkpoint__count=3)
    recipe = trainer.recipe.with_set({"run.steps": 300, "run.minutes": 0.01})
    run.write_bytes("recipe.toml", recipe.to_toml().encode())
    trainer = Trainer(recipe, run)
    steps, plan = trained(trainer), trainer.plan
    assert len(plan.turns) > 1, "the machine is slower than the plan"
    for step in random.Random(0).sample(range(1, max(steps)), 6):
        assert rewind(run, step, tmp_path / f"{step}").weights == steps[step]


@pytest.mark.slow
def test_fifty_random_steps_are_equal(tiny: Recipe, tmp_path: Path) -> None:
    run, trainer = begun(
        tiny, tmp_path / "run", run__steps=120, checkpoint__count=12, schedule__ramp=0.3, schedule__accumulate=2
    )
    steps = trained(trainer)
    for step in random.Random(0).sample(range(121), 50):
        assert rewind(run, step, tmp_path / f"{step}").weights == steps[step]
