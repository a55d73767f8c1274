"""What the operating system, Python or another library refuses ends in one sentence that says what to do."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from cloche.cli import errors
from cloche.cli.errors import one_line, sentence_and_status

Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("number", [*errors.SYSTEM, *errors.FULL, errno.ENOTSUP])
@pytest.mark.parametrize("name", ["runs/first", None])
def test_every_error_of_the_system_is_a_sentence(number: int, name: str | None) -> None:
    sentence, code = sentence_and_status(OSError(number, os.strerror(number), name))
    assert code == 1 and "an unexpected error" not in sentence and sentence.endswith(".")
    assert name is None or name in sentence or number == errno.EADDRINUSE


class Panic(BaseException):
    """As pyo3 raises it: not an Exception."""


Panic.__module__ = "pyo3_runtime"


def abort(inner: BaseException) -> BaseException:
    """What typer makes of Ctrl-C and of EOFError."""
    made = type("Abort", (RuntimeError,), {})()
    made.__context__ = inner
    return made


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MemoryError(), 1, "not enough memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            1,
            "not enough memory",
        ),
        (RecursionError("maximum recursion depth exceeded"), 1, "nested too deeply"),
        (OverflowError("Python int too large to convert to C long"), 1, "too large"),
        (ValueError("embedded null byte"), 1, "NUL character"),
        (UnicodeEncodeError("utf-8", "a\udce9", 1, 2, "surrogates not allowed"), 1, "not UTF-8"),
        (UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid start byte"), 1, "should be UTF-8"),
        (ModuleNotFoundError("No module named 'PIL.Image'", name="PIL.Image"), 1, "pip install PIL"),
        (zlib.error("Error -3"), 1, "cannot be read"),
        (zipfile.BadZipFile("File is not a zip file"), 1, "cannot be read"),
        (EOFError(), 1, "truncated file"),
        (Panic("index out of bounds"), 1, "cannot be read"),
        (abort(EOFError("No data left in file")), 1, "truncated file"),
        (abort(KeyboardInterrupt()), 130, "Stopped"),
    ],
)
def test_errors_of_libraries_say_what_to_do(error: BaseException, code: int, said: str) -> None:
    sentence, actual = sentence_and_status(error)
    assert actual == code and said in sentence and "an unexpected error" not in sentence


def test_a_sentence_is_one_line_whatever_a_name_holds() -> None:
    assert one_line("a\nb\x1b[31m\udce9é.") == "a\\nb\\x1b[31m\\udce9é."
    assert len(one_line("x" * 10**6)) == errors.LONGEST


PATHS = {
    "missing": "nowhere",
    "a name that is too long": "a" * 300,
    "too long a path": "/".join(["a" * 200] * 30),
    "NUL": "a\0b",
    "line end": "no\nwhere\x1b[31m",
    "not UTF-8": "caf\udce9",
    "a file": "file",
    "under a file": "file/x",
    "a loop": "loop",
    "a pipe": "pipe",
    "empty": "",
}
READERS = (
    ["verify"],
    ["resume"],
    ["generate"],
    ["sindy"],
    ["sae", "features", "*", "d"],
    ["pretrain", "*", "--out", "new"],
    ["pretrain", "--out", "new", "--data", "*"],
    ["sparse", "learn", "*", "--out", "new"],
    ["sparse", "encode", "*", "rows.npy", "--out", "new.npz"],
    ["sparse", "denoise", "*", "--out", "new.npy"],
)


@pytest.mark.parametrize("kind", PATHS)
def test_a_path_that_cannot_be_read_is_one_sentence_everywhere(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("hello\n")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    wrong = []
    for words in READERS:
        typed = [PATHS[kind] if word == "*" else word for word in words]
        code, out, err = call(*(typed if "*" in words else [*typed, PATHS[kind]]))
        if (
            code not in (1, 2)
            or err.count("\n") != 1
            or "an unexpected error" in err
            or "\x1b" in err
            or "Traceback" in err
        ):
            wrong.append((words, code, out, err))
    assert not wrong
    assert not list(tmp_path.glob("new*"))


def test_closed_and_full_streams_and_other_locales(tmp_path: Path) -> None:
    """What is printed never goes into a file that was opened later, and no character is refused."""
    command = f"{sys.executable} -c 'from cloche.cli import main; main()' "
    missing = tmp_path / "caf\u00e9"
    environment = os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}

    def shell(text: str) -> tuple[int, str]:
        made = subprocess.run(text, shell=True, capture_output=True, text=True, env=environment, check=False)
        return made.returncode, made.stderr

    assert shell(f"{command} --version <&- >&-") == (0, "")
    assert shell(f"{command} verify {missing} 2>&-")[0] == 1
    code, err = shell(f"{command} verify {missing}")
    assert code == 1 and "caf\\" in err and err.count("\n") == 1
    if Path("/dev/full").exists():
        code, err = shell(f"{command} --version > /dev/full")
        assert (code, err.count("\n")) == (1, 1) and "no space left" in err


@pytest.mark.parametrize(
    "words",
    [
        ("generate", "run", "--new", 10**30),
        ("generate", "run", "--seed", -1),
        ("sae", "train", "run", "--features", 10**30),
        ("sae", "train", "run", "--end-to-end", 10**30),
        ("sparse", "learn", "x.npy", "--out", "d", "--atoms", 10**30),
        ("sparse", "learn", "x.npy", "--out", "d", "--passes", 10**9),
        ("sparse", "atoms", "curvelet", "--out", "d.png", "--side", 10**9),
        ("sparse", "denoise", "x.npy", "--out", "y.npy", "--spins", 10**9),
        ("sindy", "x.csv", "--fourier", 10**9),
    ],
)
def test_a_number_no_machine_can_count_to_is_refused_before_anything_is_read(
    call: Call, words: tuple[object, ...]
) -> None:
    code, _, err = call(*words)
    assert (code, err.count("\n")) == (2, 1) and str(words[-2]) in err, err
