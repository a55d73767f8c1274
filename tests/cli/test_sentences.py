"""Whatever goes wrong ends in one sentence on stderr and a code; the traceback is for --debug."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from cloche.cli import app as command_line
from cloche.cli.errors import Stopped, resumable
from cloche.errors import ClocheError
from cloche.runs import Run


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        command_line.main(words)
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def one_sentence(err: str) -> bool:
    return err.count("\n") == 1 and "Traceback" not in err


def test_what_the_user_can_mend_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = call(capsys, "resume", str(tmp_path / "nowhere"))
    assert (code, out) == (1, "")
    assert one_sentence(err)
    assert "there is no folder" in err


@pytest.mark.parametrize("words", [("--debug", "verify", "nowhere"), ("verify", "nowhere", "--debug")])
def test_debug_shows_the_traceback_wherever_it_stands(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    code, _, err = call(capsys, *words)
    assert code == 1
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("there is no folder")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("verify",), "RUN"),
        (("grow",), "No such command 'grow'"),
        (("verify", "a", "--fast"), "--fast"),
        (("generate", "a", "b", "--new", "many"), "--new"),
        (("pretrain", "recipe.toml"), "--out"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    code, _, err = call(capsys, *words)
    assert code == 2
    assert one_sentence(err)
    assert said in err
    assert "--help" in err


@pytest.mark.parametrize("words", [(), ("sae",), ("sparse",)])
def test_a_command_that_needs_another_shows_its_help_as_help(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    code, out, err = call(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: cloche") and "\nCommands:\n" in err and "\\n" not in err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RuntimeError("two\nlines"), 1, "RuntimeError: two lines"),
        (MemoryError(), 1, "not enough memory"),
        (KeyboardInterrupt(), 130, "Stopped"),
        (Stopped("Stopped; go on with: cloche resume r"), 130, "cloche resume r"),
        (ClocheError("this is wrong; fix it so"), 1, "this is wrong; fix it so"),
    ],
)
def test_every_kind_of_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:
    def verb() -> None:
        raise error

    monkeypatch.setattr(command_line.app.registered_commands[0], "callback", verb)
    actual, _, err = call(capsys, "demo")
    assert actual == code
    assert said in err
    assert "Traceback" not in err
    if isinstance(error, RuntimeError):
        assert "--debug" in err


def test_a_reader_that_has_had_enough_hears_no_complaint(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "")
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", "from cloche.cli import main; main()", "verify", str(run.path)]
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_an_interrupted_course_says_how_to_go_on() -> None:
    for end in (KeyboardInterrupt, BrokenPipeError):
        with pytest.raises(Stopped, match="cloche resume runs/x"), resumable(Path("runs/x")):
            raise end


def test_verify_tells_and_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "")
    with run.new_checkpoint(1) as folder:
        (folder / "model.safetensors").write_bytes(save({"w": np.zeros(3, np.float32)}))
    code, out, _ = call(capsys, "verify", str(run.path))
    assert code == 0
    assert "1 checkpoint," in out
    (run.path / "notes.txt").write_text("mine")
    code, out, _ = call(capsys, "verify", str(run.path))
    assert (code, out.partition(";")[0]) == (0, "note: notes.txt was not written by cloche")
    (run.path / "notes.txt").unlink()
    weights = run.path / "checkpoints/step-000001/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"z")
    code, out, err = call(capsys, "verify", str(run.path), "--json")
    report = json.loads(out)
    assert (code, err, report["ok"]) == (1, "", False)
    assert [problem["where"] for problem in report["problems"]] == ["checkpoints/step-000001/model.safetensors"]
    code, out, _ = call(capsys, "verify", str(run.path))
    assert code == 1
    assert out.count("\n") == 1
