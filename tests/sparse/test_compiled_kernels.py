"""Kernels are compiled once for a machine, and said once; whatever state the cache is in, they run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import torch
from cloche.sparse import Dictionary
from cloche.sparse.pursuit import MatchingPursuit
for _ in range(2):
    code = MatchingPursuit(2).encode(torch.eye(4)[:2] * 3, Dictionary(torch.eye(4)))
assert code.dense().sum() == 6
"""
LINE = "compiling the matching pursuit kernel once, about 1 s; kept in "


def said(cache: Path, temporary: Path) -> str:
    told = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    told |= {"CLOCHE_CACHE": str(cache), "TMPDIR": str(temporary)}
    done = subprocess.run([sys.executable, "-c", RUN], env=told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
def test_a_kernel_is_compiled_in_the_first_process_alone_and_survives_any_cache(tmp_path: Path) -> None:
    cache, temporary = tmp_path / "cache", tmp_path / "temporary"
    temporary.mkdir()
    first = said(cache, temporary)
    assert first.count("compiling") == 1 and first.startswith(f"{LINE}{cache}")
    assert said(cache, temporary) == ""
    for kept in cache.rglob("*.nb?"):
        kept.write_bytes(kept.read_bytes()[:40])
    assert said(cache, temporary).count("compiling") == 1  # damaged: compiled again
    assert said(cache, temporary) == ""
    (tmp_path / "file").write_text("")
    elsewhere = said(tmp_path / "file" / "cache", temporary)  # cannot be made
    assert elsewhere.startswith(f"{LINE}{temporary}") and said(tmp_path / "file" / "cache", temporary) == ""
