"""`cloche compare` on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_run import TINY


@pytest.mark.slow
def test_compare_prints_the_table_and_keeps_a_page(
    call: Callable[..., tuple[int, str, str]], text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ("compare", "--data", text, "--vary", "log.every=2,3", "--seeds", 1, "--steps", 1, "--out", out)
    words = (*words, "--set", *TINY, "evaluate.samples=0")
    code, printed, _ = call(*words)
    assert code == 0 and "identical" in printed and "seconds per run" in printed
    code, printed, _ = call(*words, "--json", "--monitors")
    same = json.loads(printed)["data"]["settings"][1]
    assert code == 0 and same["verdict"] == "identical" and same["monitors"]["update_norm"]["difference"] == 0
    page = (out / "comparison.html").read_text()
    assert "seconds per run" in page and "Responses" in page
    assert call("compare", "--vary", "log.every", "--out", out)[0] == 1
    code, _, error = call(*words, "--set", "model.width=36")
    assert code == 1 and "another recipe" in error
