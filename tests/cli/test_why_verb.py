"""`cloche why` on the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_run_is_explained_and_the_finding_kept(
    call: Callable[..., tuple[int, str, str]], grown: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(grown, run)
    code, out, _ = call("why", run, "--json")
    found = json.loads(out)
    assert code == 0 and found["instrument"] == "why" and Path(found["path"]).parent == run / "findings" / "why"
    code, out, _ = call("why", run)
    assert code == 0 and "Causes" in out and "Evidence for" in out
    assert call("verify", run)[0] == 0
