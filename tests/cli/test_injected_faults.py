"""Faults drawn over all files of a run that was really grown: every one is found, or changes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from tiny_run import TINY

from bench.runs.faults import KINDS, faults, snapshot
from cloche.runs import verify

DRAWN = 300


@pytest.mark.slow
def test_300_drawn_faults_are_found(call: Callable[..., tuple[int, str, str]], tmp_path: Path, text: Path) -> None:
    run, copy = tmp_path / "run", tmp_path / "copy"
    assert call("demo", "--out", run, "--data", text, "--set", *TINY)[0] == 0
    before, found, missed, kinds = snapshot(run), 0, [], set()
    assert (verify(run).problems, verify(run).notes) == ([], [])
    for fault in islice(faults(run, seed=14), DRAWN):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run, copy)
        fault.apply(copy)
        said, is_harmless = bool(verify(copy).problems), snapshot(copy) == before
        found += said
        kinds.add(fault.description.partition(":")[0])
        if said == is_harmless:
            missed.append(fault.description)
    assert missed == []
    assert kinds == set(KINDS)
    assert found > 0.8 * DRAWN, (
        "few draws change nothing: a lock deleted, equal files swapped, no right to read for root"
    )
