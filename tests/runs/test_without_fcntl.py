"""The run folder's own tests once more, in a Python that has of the operating system what Windows has."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(not hasattr(fcntl, "F_OFD_SETLK"), reason="the stand-in locks as only Linux can")


def run_tests(*arguments: str) -> None:
    path = os.pathsep.join([str(HERE / "without_fcntl"), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "not slow", *arguments]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_logs_without_fcntl() -> None:
    """They are locked against a second writer, cut, put back and followed as they are elsewhere."""
    run_tests(str(HERE / "test_logs.py"))


@pytest.mark.slow
def test_run_folders_without_fcntl() -> None:
    run_tests(str(HERE), "--ignore", __file__)
