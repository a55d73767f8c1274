from __future__ import annotations

import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from schema_check import check_output
from tiny_run import TINY

from cloche.cli import main


@pytest.fixture(scope="session")
def text() -> Path:
    """A few real files."""
    return Path(sysconfig.get_path("stdlib")) / "json"


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`call("verify", "runs/first")` is the exit code, stdout and stderr of `cloche verify runs/first`."""

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        code = int(end.value.code or 0)
        if "--json" in words and "--" not in words:
            check_output([str(word) for word in words], out)
        return code, out, err

    return run


@pytest.fixture(scope="session")
def grown(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """A tiny run, finished, never touched by a test."""
    folder = tmp_path_factory.mktemp("grown") / "run"
    with pytest.raises(SystemExit) as end:
        main(["pretrain", "--out", str(folder), "--data", str(text), "--set", *TINY])
    assert not end.value.code
    return folder
