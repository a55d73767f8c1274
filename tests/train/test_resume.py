"""Exact resume: a run that was killed and resumed ends in the same bytes as one that was not."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_training import tiny_recipe

from cloche.errors import ClocheError
from cloche.runs import verify
from cloche.train import Recipe, Trainer

KILLED = Path(__file__).with_name("killed.py")
UNTIMED = ("step", "tokens", "flops", "loss", "lr", "grad_norm", "val_loss", "val_bpb", "val_bytes")


def fingerprint(run):
    """All of a finished run but its clock."""
    last = run.checkpoint("last")
    state = json.loads((last.path / "state.json").read_text())
    metrics = [{k: r[k] for k in UNTIMED if k in r} for r in run.read_log("metrics")]
    files = {name: last.manifest["files"][name]["sha256"] for name in ("model.safetensors", "optimizer.safetensors")}
    clockless = {k: v for k, v in state.items() if k != "time"}
    return last.step, files, clockless, metrics, run.read_log("health"), run.read_log("samples")


def killed(run, step):
    """By kill -9, as power cuts do."""
    died = subprocess.run([sys.executable, KILLED, run.path, str(step)], capture_output=True, text=True, timeout=300)
    assert died.returncode == -signal.SIGKILL, died.stderr


def crashed(run, step):
    """In this process: an error between two checkpoints, which nothing catches and after which nothing is saved."""
    cut_off(iter(Trainer.start(Recipe.parse(run.recipe), run)), step)


def cut_off(steps, step):
    while next(steps)["step"] < step:
        pass
    with pytest.raises(MemoryError):
        steps.throw(MemoryError())


@pytest.mark.parametrize("end", [crashed, pytest.param(killed, marks=pytest.mark.slow)], ids=lambda end: end.__name__)
@pytest.mark.parametrize(
    "kind",
    [
        *("AdamW", "Muon"),
        *(pytest.param(line, marks=pytest.mark.slow) for line in ("SOAP", "Shampoo(every=7)", "KFAC(every=7)")),
    ],
)
def test_cut_off_and_resumed_ends_in_the_same_bytes(new_run, kind, end):
    # checkpoints at 25 and 50; logs every 7 steps, so that a half-gathered loss must survive the checkpoint too
    recipe = tiny_recipe(run__steps=50, checkpoint__count=8, log__every=7, evaluate__validations=3, optimizer=kind)
    straight, broken = new_run("straight", recipe), new_run("broken", recipe)
    trainer = Trainer.start(recipe, straight)
    list(trainer)
    end(broken, 30)
    assert broken.checkpoint("last").step == 25
    assert max(r["step"] for r in broken.read_log("metrics")) > 25

    resumed = Trainer.resume(broken)
    assert resumed.step == 25
    assert max(r["step"] for r in broken.read_log("metrics")) <= 25
    list(resumed)
    assert fingerprint(broken) == fingerprint(straight)
    assert (resumed.batches.next() == trainer.batches.next()).all()
    assert [c.step for c in broken.checkpoints()] == [c.step for c in straight.checkpoints()]
    assert verify(broken.path).problems == []


def test_killed_before_the_first_checkpoint_starts_again(new_run):
    recipe = tiny_recipe(run__steps=4)
    run = new_run("early", recipe)
    with run.log("metrics") as log:
        log.append({"step": 0, "loss": 1.0})
    list(Trainer.resume(run))
    assert [r["step"] for r in run.read_log("metrics") if "val_bpb" in r] == [0, 2, 4]
    assert run.checkpoint("last").step == 4


def test_more_steps_go_on_from_the_end(new_run):
    recipe = tiny_recipe(run__steps=4)
    run = new_run("longer", recipe)
    list(Trainer.start(recipe, run))
    list(Trainer.resume(run, {"run.steps": "8"}))
    assert run.checkpoint("last").step == 8
    assert run.read_log("metrics")[-1]["tokens"] == 8 * 4 * 32


def test_a_shortened_run_can_be_given_the_steps_it_was_planned_with(new_run):
    recipe = tiny_recipe(run__minutes=5.0, run__steps=12)
    run = new_run("shortened", recipe)
    trainer = Trainer.start(recipe, run)
    trainer.plan.turns.append((2, 4))  # as on a machine that got slower
    list(trainer)
    assert run.checkpoint("last").step == 4
    with pytest.raises(ClocheError, match=r"finished its 4 steps.*run.steps=12$"):
        Trainer.resume(run)
    longer = Trainer.resume(run, {"run.steps": "12"})
    assert longer.steps == 12
    cut_off(iter(longer), 5)
    assert run.checkpoint("last").step == 4
    list(Trainer.resume(run))
    assert run.checkpoint("last").step == 12


def test_a_damaged_checkpoint_is_one_sentence(new_run):
    recipe = tiny_recipe(run__steps=4)
    run = new_run("damaged", recipe)
    list(Trainer.start(recipe, run))
    (run.checkpoint("last").path / "optimizer.safetensors").write_bytes(b"no")
    with pytest.raises(ClocheError, match="bytes that were written"):
        Trainer.resume(run, {"run.steps": "8"})


def test_another_optimizer_cannot_take_over(new_run):
    recipe = tiny_recipe(run__steps=4)
    run = new_run("other", recipe)
    list(Trainer.start(recipe, run))
    with pytest.raises(ClocheError, match="trained by Muon"):
        Trainer.resume(run, {"run.steps": "8", "optimizer.part": "AdamW"})
