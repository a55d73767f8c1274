"""A third party's body and mixer on the command line: trained, looked at, edited, reported and resumed with --import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_run import TINY

import third_party
from cloche.runs import Run

Call = Callable[..., tuple[int, str, str]]
OWN = ("--import", "third_party")
BODY = (
    "model.body=TwoSpeed(cycles=2, steps=1, fast=Block(Convolution(size=3), MLP(hidden=48)), "
    "slow=Block(Attention(heads=2), MLP(hidden=48)))"
)


def alone(*words: object) -> subprocess.CompletedProcess[str]:
    """The command in a process that has imported nothing yet."""
    there = str(Path(third_party.__file__).parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([there, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", "from cloche.cli import main; main()", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow
def test_from_training_to_a_resumed_run(call: Call, tmp_path: Path, text: Path) -> None:
    settings = [setting for setting in TINY if not setting.startswith("model.body")]
    code, _, err = call("pretrain", "--out", tmp_path / "run", "--data", text, *OWN, "--set", *settings, BODY)
    assert code == 0, err
    run = Run.open(tmp_path / "run")
    assert 'part = "third_party:TwoSpeed"' in run.recipe and 'part = "third_party:Convolution"' in run.recipe
    plain, edited = (
        call("generate", run.path, "import", "--new", 5, "--temperature", 0, *OWN, *edit, "--json")
        for edit in ((), ("--edit", "conv_out[2].scale(-9)"))
    )
    assert plain[0] == edited[0] == 0, edited[2]
    assert json.loads(plain[1])["ids"] != json.loads(edited[1])["ids"]
    assert call("report", run.path)[0] == 0 and (run.path / "report.html").is_file()
    assert call("resume", run.path, *OWN, "--set", "run.steps=14")[0] == 0
    assert Run.open(run.path).checkpoint("last").step == 14 and call("verify", run.path)[0] == 0
    unasked = alone("generate", run.path, "import", "--new", 2)
    assert unasked.returncode and "--import third_party" in unasked.stderr
    assert alone("generate", run.path, "import", "--new", 2, *OWN).returncode == 0
