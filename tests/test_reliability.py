"""The quick form of bench/runs/reliability.py: kills, doubles, full disks, deletions, faults, hostile files and requests."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kinds", "seed", "scale"),
    [
        ("kills", 0, 0.4),
        ("kills", 1, 0.4),
        ("doubles", 0, 1.0),
        ("disks deletions", 0, 1.0),
        ("faults files requests", 0, 1.0),
    ],
)
def test_what_happens_to_a_run_loses_nothing(kinds: str, seed: int, scale: float) -> None:
    command = [sys.executable, "-m", "bench.runs.reliability", "--quick", "--only", *kinds.split()]
    command += ["--seed", str(seed), "--scale", str(scale)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
