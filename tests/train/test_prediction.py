"""Memory and time of a recipe before it is trained."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import torch

from cloche.errors import ClocheError
from cloche.text import Tokenizer
from cloche.train import Recipe, forecast
from cloche.train.prediction import forecasting, process
from cloche.train.prediction.live import LiveMemory
from cloche.train.prediction.process import ProcessMemory
from cloche.train.prediction.rehearsal import Rehearsal


@pytest.fixture(autouse=True)
def known_process(request, monkeypatch):
    if "slow" not in request.keywords:
        monkeypatch.setattr(forecasting, "process_memory", lambda: ProcessMemory(3e8, 1.5))


def test_storage_is_counted_once_and_until_it_is_freed() -> None:
    with LiveMemory() as live:
        live.begin("a")
        x = torch.ones(100)
        view = x.view(10, 10)[2:]
        assert live.total == 400
        del x
        assert live.total == 400  # the view holds it
        y = view + 1
        live.claim([y], "mine")
        del view
        assert (live.total, dict(+live.live)) == (320, {"mine": 320})
        live.begin("b")
        z = y * 2  # noqa: F841
    assert {phase: sum(held.values()) for phase, held in live.most.items()} == {"a": 720, "b": 640}


def test_what_autograd_saves_is_activations() -> None:
    x = torch.ones(8, 8, requires_grad=True)
    with LiveMemory() as live, live.saving():
        live.claim([x], "weights")
        y = x.exp().sin()  # exp saves its output, sin its input: one tensor
        assert live.live["activations"] == 256
        del y
        assert live.live["activations"] == 0


def test_weights_gradients_and_state_are_exact(tiny: Recipe) -> None:
    rehearsal = Rehearsal(tiny.with_set({"optimizer": "AdamW", "run.batch": 1, "run.length": 2}))
    held = rehearsal.memory()["update"]
    weights = 4 * sum(p.numel() for p in rehearsal.net.parameters())
    steps = 4 * len(list(rehearsal.net.parameters()))  # AdamW's count of steps, per parameter
    assert (held["weights"], held["gradients"], held["optimizer"]) == (weights, weights, 2 * weights + steps)


def test_fewer_rows_extrapolate_to_the_batch(tiny: Recipe, monkeypatch) -> None:
    recipe = tiny.with_set({"run.batch": 64, "run.length": 64, "objective.chunk": 128})
    monkeypatch.setattr(forecasting, "BUDGET", 1e9)  # else a busy machine measures fewer rows
    whole = forecast(recipe)
    monkeypatch.setattr(forecasting, "BUDGET", 1e-6)
    fewer = forecast(recipe)
    assert (whole.rows, fewer.rows) == (64, 3)  # two rows fill a chunk
    # The moment of the most is another one for few rows, so a line through them lies below.
    assert sum(fewer.tensors.values()) == pytest.approx(sum(whole.tensors.values()), rel=0.1)
    assert fewer.tensors["weights"] == whole.tensors["weights"] == 4 * whole.parameters
    assert whole.memory == pytest.approx(ProcessMemory(3e8, 1.5).bytes(whole.tensors))


def test_a_process_is_measured_and_remembered(tmp_path, monkeypatch) -> None:
    asked = []

    def run(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, "a warning\n[2e8, 1.4]\n", "")

    monkeypatch.setattr(process, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(process.subprocess, "run", run)
    assert process.process_memory() == process.process_memory() == ProcessMemory(2e8, 1.4)
    assert len([command for command in asked if command[0] == sys.executable]) == 1
    (tmp_path / "process.json").write_text('{"other": 1')
    monkeypatch.setattr(
        process.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", "no")
    )
    assert process.process_memory() == ProcessMemory(*process.USUAL)


REAL = """
import json, sys, time, statistics
from pathlib import Path
from cloche.runs import Run
from cloche.train import Recipe, Trainer
from cloche.train.prediction.process import most_resident
recipe, seconds = Recipe.load(sys.argv[1]), []
trainer = Trainer(recipe, Run.open(sys.argv[2]))
for _ in range(6):
    start = time.process_time()
    trainer.update()
    seconds.append(time.process_time() - start)
trainer.measure_health(trainer.source.next())
trainer.validate()
trainer.update()
print(json.dumps([most_resident(), statistics.median(seconds[1:])]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"run.batch": 32, "run.length": 64, "model.width": 128, "model.body.depth": 3},
        {"optimizer": "AdamW", "run.batch": 2, "run.length": 64, "model.width": 512, "model.body.depth": 3},
    ],
    ids=["activations", "weights"],
)
def test_memory_within_a_tenth_and_time_within_a_quarter_of_training(changes, prepared, new_run, tmp_path, monkeypatch):
    recipe = Recipe().with_set({"tokenizer.vocab": 300, "run.steps": 8, "run.threads": 1, "run.precision": "fp32"})
    recipe = recipe.with_set({"evaluate.tokens": 512, "model.body.block.mix.heads": 4, **changes})
    vocab = Tokenizer.load(prepared).vocab
    recipe = recipe.with_set({"model.vocab": vocab, "tokenizer.vocab": vocab})
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    monkeypatch.setattr(forecasting, "BUDGET", 3.0)
    monkeypatch.setattr("cloche.train.prediction.rehearsal.clock", time.process_time)
    found = forecast(recipe)
    command = [sys.executable, "-c", REAL, str(tmp_path / "recipe.toml"), str(new_run("real", recipe).path)]
    peak, seconds = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    )
    assert found.memory == pytest.approx(peak, rel=0.10)
    assert found.seconds == pytest.approx(seconds, rel=0.25)


def test_many_accumulated_batches_are_extrapolated(tiny: Recipe) -> None:
    """As many as would take days, from updates of one batch and of two; their activations are those of one."""
    alone, many = (forecast(tiny.with_set({"schedule.accumulate": n})) for n in (1, 2**20))
    assert many.speed["flops"] == 2**20 * alone.speed["flops"]
    assert many.seconds > 1e4 * alone.seconds
    assert many.tensors["activations"] == pytest.approx(alone.tensors["activations"], rel=0.01)


def test_a_row_that_takes_too_long_is_refused(tiny: Recipe, monkeypatch) -> None:
    monkeypatch.setattr(forecasting, "LONGEST_ROW", 1e-9)
    with pytest.raises(ClocheError, match=r"choose a smaller run\.length"):
        forecast(tiny)
