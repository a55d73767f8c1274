"""`cloche rewind` and `cloche verify --replay` on the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_step_is_rebuilt_and_a_run_is_proved(
    call: Callable[..., tuple[int, str, str]], grown: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(grown, run)
    code, out, _ = call("rewind", run, 5, "--json")
    assert code == 0 and Path(json.loads(out)["path"]) == run / "checkpoints" / "step-000005"
    assert call("look", run, "logit-lens", "--checkpoint", 5)[0] == 0
    code, out, _ = call("verify", run, "--replay", 2)
    assert code == 0 and "trained again" in out
    code, out, _ = call("verify", run, "--replay", 2, "--json")
    assert code == 0 and len(json.loads(out)["replayed"]) == 2
    code, _, error = call("rewind", run, 99)
    assert code == 1 and "no step 99" in error
