"""What is the same for every command: an example in its help, --json where it reports, and what --json prints."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer.main

from cloche.cli.app import app
from cloche.runs import Run

Call = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("kernels")
SHOWS = ("open",)  # commands that show something and report nothing


def commands() -> dict[str, object]:
    found = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found |= {f"{name} {below}": each for below, each in inner.items()} if inner else {name: command}
    return found


@pytest.mark.parametrize("name", commands())
def test_help_has_an_example_and_json(name: str) -> None:
    command = commands()[name]
    assert command.epilog.startswith(f"Example: cloche {name} ") or command.epilog == f"Example: cloche {name}"
    assert (command.help or "").split("\n")[0].endswith((".", ";")), "it begins with a sentence"
    options = {option for each in command.params for option in each.opts}
    assert ("--json" in options) == (name not in SHOWS)


def shown(call: Call, name: str) -> str:
    code, out, err = call(*name.split(), "--help")
    assert (code, err) == (0, "")
    return out


@pytest.mark.parametrize("name", ["", *typer.main.get_command(app).commands, *commands()])
def test_help_is_written_for_people(call: Call, name: str) -> None:
    """No Python types, no bounds, no sentence that is cut off, and an example that can be copied."""
    usage, *lines = shown(call, name).splitlines()
    assert usage.startswith("Usage: cloche") and "<" not in usage
    assert not [line for line in lines if re.search(r"<|\bx[<>]|\.\.\.$| range\b", line)]
    examples = [line for line in lines if line.startswith("  Example: cloche")]
    assert examples == lines[-1:]
    if name in commands():
        command = commands()[name]
        assert examples[0].strip() == command.epilog
        options = {option for each in command.params for option in each.opts}
        assert {word for word in examples[0].split() if word.startswith("--")} <= options


def reported(call: Call, *words: object) -> dict:
    code, out, err = call(*words, "--json")
    assert code == 0, err
    return json.loads(out)


def test_json_of_signals(call: Call, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "rows.npy", rng.standard_normal((200, 6)))
    np.save(tmp_path / "wave.npy", np.sin(np.arange(64) / 5))
    words = ("--out", tmp_path / "d", "--atoms", 8, "--k", 2, "--passes", 1)
    learned = reported(call, "sparse", "learn", tmp_path / "rows.npy", *words)
    keys = "out method atoms width signals sides level picture l0 fvu dead_share seconds"
    assert list(learned) == keys.split() and learned["signals"] == 200
    words = ("sparse", "encode", tmp_path / "d", tmp_path / "rows.npy", "--out", tmp_path / "c.npz")
    assert list(reported(call, *words)) == ["out", "decoded", "method", "signals", "l0", "fvu"]
    assert reported(call, "sparse", "atoms", tmp_path / "d", "--out", tmp_path / "a.png")["atoms"] == 8
    words = ("sparse", "denoise", tmp_path / "wave.npy", "--out", tmp_path / "o.npy")
    assert list(reported(call, *words)) == ["out", "dictionary", "noise", "estimated", "shape", "padded"]


def test_an_error_is_json_too(call: Call, tmp_path: Path) -> None:
    code, out, err = call("verify", tmp_path / "nowhere", "--json")
    assert code == 1 and json.loads(out) == {"error": err.rstrip("\n"), "code": "RUN-MISSING"}
    code, out, err = call("verify", "--json")
    assert code == 2 and json.loads(out) == {"error": err.rstrip("\n"), "code": "ARGUMENT-INVALID"}
    assert call("verify", tmp_path / "nowhere", "--", "--json")[1] == ""


def test_ctrl_c_while_commands_are_imported_is_json_too(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(argv: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cloche.cli.app.main", interrupted)
    code, out, err = call("verify", "run", "--json")
    assert (code, json.loads(out), err) == (130, {"error": "Stopped.", "code": "INTERRUPTED"}, "Stopped.\n")
    assert call("verify", "run", "--", "--json")[:2] == call("verify", "run")[:2] == (130, "")


def test_a_report_is_written_for_any_run_and_replaces_only_its_own(call: Call, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "")
    found = reported(call, "report", run.path)
    assert list(found) == ["run", "report", "bytes", "checkpoints", "findings"]
    page = Path(found["report"])
    assert page == run.path / "report.html" and page.stat().st_size == found["bytes"]
    assert call("report", run.path)[0] == 0, "its own page is replaced"
    page.write_text("<p>my notes</p>")
    code, _, err = call("report", run.path)
    assert code == 1 and "exists already" in err and page.read_text() == "<p>my notes</p>"
    assert call("report", run.path, "--out", tmp_path / "new" / "page.html")[0] == 0
    assert "<title>run" in (tmp_path / "new" / "page.html").read_text()
