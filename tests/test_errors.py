"""Every refusal has a code, docs/errors.md lists them all, and --json shows them."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from cloche import errors
from cloche.cli.errors import code_of, report_error
from cloche.errors import ClocheError, SiteUnknown, described

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src" / "cloche").rglob("*.py"))
MOST_CODES, MOST_RAISES = 60, 80


def made() -> Counter[str]:
    """How often each class of error is made in the package."""
    calls = (node for path in SOURCES for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    names = (node.func.id for node in calls if isinstance(node.func, ast.Name))
    return Counter(name for name in names if name == "ClocheError" or name in described())


def test_every_refusal_names_its_situation() -> None:
    counts = made()
    assert counts["ClocheError"] == 0, "raise the class of the situation, or of the one nearest to it"
    assert {name: n for name, n in counts.items() if n > MOST_RAISES} == {}, "split it into the situations it covers"
    assert len(described()) + 2 <= MOST_CODES  # ERROR and INTERRUPTED besides


def test_the_codes_are_listed_with_cause_and_fix() -> None:
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = [f"| `{kind.code}` | {cause} | {fix} |" for kind, cause, fix in described().values()]
    assert [line for line in page.splitlines() if line.startswith("| `")] == [
        *rows,
        *(line for line in page.splitlines() if line.startswith(("| `INTERRUPTED`", "| `ERROR`"))),
    ]
    assert all(cause.endswith(".") and fix.endswith(".") for _, cause, fix in described().values())


def test_an_error_carries_its_code() -> None:
    assert SiteUnknown("no such site").code == "SITE-UNKNOWN"
    assert errors.NotFinite.code == "NOT-FINITE" and ClocheError.code == "ERROR"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (SiteUnknown("no such site"), 1, "SITE-UNKNOWN"),
        (MemoryError(), 1, "OUT-OF-MEMORY"),
        (OSError(28, "No space left on device", "x"), 1, "WRITE-REFUSED"),
        (OSError(13, "Permission denied", "x"), 1, "FILE-UNREADABLE"),
        (json.JSONDecodeError("no", "x", 0), 1, "FILE-DAMAGED"),
        (RuntimeError("odd"), 1, "ERROR"),
        (KeyboardInterrupt(), 130, "INTERRUPTED"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_json_shows_the_code_of_any_error(capsys, error: BaseException, status: int, code: str) -> None:
    assert report_error(error, debug=False, as_json=True) == status
    assert json.loads(capsys.readouterr().out)["code"] == code == code_of(error, status)


def test_a_command_shows_the_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cloche", "verify", str(tmp_path), "--json"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 1 and json.loads(found.stdout)["code"] == "RUN-MISSING"
