"""A third party's objective, optimiser and schedule on the command line: trained, resumed, reported, never imported unasked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_run import TINY, weights

from cloche.runs import Run

Call = Callable[..., tuple[int, str, str]]
HERE = Path(__file__).parents[1] / "train"  # where own_parts.py is
PARTS = ("objective=Confident(penalty=0.1)", "optimizer=Sign(lr=0.002)", "schedule=Steps()")


@pytest.fixture
def with_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(HERE))


def alone(*words: object) -> subprocess.CompletedProcess[str]:
    """The command in a process that has imported nothing yet."""
    code = "from cloche.cli import main; main()"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow
def test_they_train_log_save_and_resume(call: Call, tmp_path: Path, text: Path, with_own: None) -> None:
    words = ("--data", text, "--import", "own_parts", "--set", *TINY, *PARTS)
    code, _, err = call("pretrain", "--out", tmp_path / "run", *words)
    assert code == 0, err
    run = Run.open(tmp_path / "run")
    assert 'part = "own_parts:Sign"' in run.recipe and 'part = "own_parts:Confident"' in run.recipe
    metrics = [record for record in run.read_log("metrics") if "loss" in record]
    assert {"entropy", "lr_all"} <= set(metrics[0])
    assert metrics[-1]["loss"] < metrics[0]["loss"] and metrics[-1]["lr"] == pytest.approx(0.0002)
    assert call("verify", run.path)[0] == 0

    call("pretrain", "--out", tmp_path / "short", *words, "evaluate.look=false", "run.steps=12")
    short = Run.open(tmp_path / "short")
    for checkpoint in short.checkpoints()[1:]:
        if checkpoint.step > 4:
            shutil.rmtree(checkpoint.path)
    assert short.checkpoint("last").step < 12
    assert call("resume", short.path, "--import", "own_parts")[0] == 0
    assert weights(short.path) == weights(run.path)


@pytest.mark.slow
def test_a_run_with_them_imports_nothing_unless_told_to(call: Call, tmp_path: Path, text: Path, with_own: None) -> None:
    """Resuming says what to type; looking at the run needs none of its code."""
    recipe = tmp_path / "own.toml"
    recipe.write_text(
        'imports = "own_parts"\nobjective = "own_parts:Confident(0.1)"\noptimizer = "own_parts:Sign(lr=0.002)"\n'
    )
    assert call("pretrain", recipe, "--out", tmp_path / "run", "--data", text, "--set", *TINY)[0] == 0
    run = tmp_path / "run"
    assert 'imports = [\n    "own_parts",\n]' in Run.open(run).recipe
    refused = alone("resume", run, "--set", "run.steps=16")
    assert refused.returncode == 1 and "--import own_parts" in refused.stderr and refused.stderr.count("\n") == 1
    resumed = alone("--import", "own_parts", "resume", run, "--set", "run.steps=16")
    assert resumed.returncode == 0, resumed.stderr
    for words in (("verify", run), ("report", run), ("generate", run, "def ", "--new", 2)):
        assert alone(*words).returncode == 0, words
    assert (run / "report.html").exists()
