"""How a command ends: one sentence on stderr and an exit code. A traceback is shown only with --debug.

Exit codes: 0 success; 1 failure, or a problem was found; 2 wrong command line; 130 interrupted. With --json the sentence is
also on stdout, with its error code (docs/errors.md): {"error": ..., "code": ...}.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from cloche.cli.outputs import ErrorRecord
from cloche.errors import ArgumentInvalid, ClocheError, FileDamaged, FileUnreadable, OutOfMemory, WriteRefused

FAILED, MISUSED, INTERRUPTED = 1, 2, 130
LONGEST = 1000  # characters of a sentence; names in it may be as long as a command line
DENIED = "cannot be read or written (permission denied): change its permissions, or choose another place"
SYSTEM = {  # errno: the rest of the sentence about the file
    errno.EACCES: DENIED,
    errno.EPERM: DENIED,
    errno.EROFS: "is on a read-only file system: choose another place",
    errno.ENOENT: "does not exist: check the name",
    errno.EEXIST: "exists already, and nothing is overwritten: choose another name",
    errno.EISDIR: "is a folder, but a file is needed: name a file",
    errno.ENOTDIR: "has a file in its path where a folder is needed: check the path",
    errno.ENOTEMPTY: "is a folder that is not empty: choose another",
    errno.ENAMETOOLONG: "has a name that is too long for this file system: choose a shorter one",
    errno.EILSEQ: "has a name that this file system cannot store: choose another",
    errno.ELOOP: "is a symbolic link that points back to itself: name a real file",
    errno.EINVAL: "cannot be used as a file here: check the name",
    errno.ETXTBSY: "is a running program: name another file",
    errno.EIO: "could not be read or written because its disk reports an error: copy the files to another disk",
    errno.ENXIO: "is not an ordinary file: name one",
    errno.ENODEV: "is not an ordinary file: name one",
}
FULL = {
    errno.ENOSPC: "There is no space left on the disk{where}: free some, or choose another place.",
    errno.EDQUOT: "Your disk quota is used up{where}: free some space, or choose another place.",
    errno.EFBIG: "A file would exceed the largest size allowed here{where}: choose another place.",
    errno.EMFILE: "Too many files are open{where}: allow more with `ulimit -n 4096`.",
    errno.ENFILE: "The system has too many files open{where}: close other programs.",
    errno.ENOMEM: "There is not enough memory for this{where}; try a smaller model, batch or length.",
    errno.EADDRINUSE: "The port is in use by another program: choose another --port, or 0 for a free one.",
    errno.EADDRNOTAVAIL: "The address is not one of this machine's{where}: choose another.",
    errno.ECHILD: "A child process has ended unexpectedly{where}: try again.",
    errno.EAGAIN: "The system could not start another process{where}: close other programs.",
}
LIBRARIES = {  # package that raised: what it was reading
    "safetensors": "A safetensors file",
    "safetensors_rust": "A safetensors file",
    "pyarrow": "A parquet file",
    "zstandard": "A .zst file",
    "zlib": "A compressed file",
    "gzip": "A .gz file",
    "lzma": "A .xz file",
    "_lzma": "A .xz file",
    "zipfile": "A .npz or .zip file",
    "PIL": "A picture",
    "tomllib": "A TOML file",
    "json": "A JSON file",
    "pyo3_runtime": "A tokenizer.json or safetensors file",
}
TOO_LARGE = (
    "Overflow when unpacking",
    "Exceeds the limit",
    "must be None or an integer: 0 <= x",
)  # in the message of a ValueError or TypeError
NO_MEMORY = "There is not enough memory for this; try a smaller model, batch or length."


class Stopped(Exception):
    """The user interrupted; the message says how to continue."""


@contextmanager
def resumable(run: Path) -> Iterator[None]:
    """Turns Ctrl-C, a full disk and a closed output pipe into sentences that say how to continue."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Stopped(f"Stopped; go on with: cloche resume {run}") from error
    except WriteRefused as error:
        raise WriteRefused(f"{error}, then go on with: cloche resume {run}") from error
    except BrokenPipeError as error:
        raise Stopped(f"Stopped because the output was closed; go on with: cloche resume {run}") from error


@contextmanager
def recording_interrupts() -> Iterator[list[int]]:
    """Yields a list to which each Ctrl-C adds an entry before it raises KeyboardInterrupt; an ignored SIGINT stays ignored."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield noted
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def sentence_and_status(error: BaseException) -> tuple[str, int]:
    """The sentence to print about an error, and the exit code."""
    if isinstance(error, Stopped):
        return str(error), INTERRUPTED
    if isinstance(error, ClocheError) and not isinstance(error.__cause__, KeyboardInterrupt):
        return str(error), FAILED
    if _was_interrupted(error):
        return "Stopped.", INTERRUPTED
    if type(error).__name__ == "Abort" and isinstance(error.__context__, EOFError):  # what typer turns it into
        error = error.__context__
    if formatted := getattr(error, "format_message", None):  # an error in the command line, reported by typer
        meant = _suggested_setting(error)
        return f"{meant or formatted().rstrip('.')}; see {_help_of(error)}.", MISUSED
    if known := _system_error(error) or _library_error(error):
        return known, FAILED
    what = " ".join(f"{type(error).__name__}: {error}".split())
    frames = traceback.extract_tb(error.__traceback__)
    if users := _of_user(frames):
        where = f"{Path(users[-1].filename).name} line {users[-1].lineno}"
        return (
            f"{where} raised an error ({what}): correct that module, or add --debug to see the traceback.",
            FAILED,
        )
    where = "".join(f", {Path(frame.filename).name} line {frame.lineno}" for frame in frames[-1:])
    return f"cloche raised an unexpected error ({what}{where}); run it again with --debug to see the traceback.", FAILED


def _of_user(frames: list[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """The lines of a traceback in modules of the user's, which cloche called: where to look first."""
    home = Path(__file__).parents[1]
    ours = [Path(frame.filename).is_relative_to(home) for frame in frames]
    called = frames[ours.index(True) :] if True in ours else []
    libraries = (home, Path(os.__file__).parent)
    return [
        frame
        for frame in called
        if frame.filename.endswith(".py")
        and "site-packages" not in Path(frame.filename).parts
        and not any(Path(frame.filename).is_relative_to(folder) for folder in libraries)
    ]


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C caused the error: libraries turn one that arrives during their imports into errors of their own."""
    for _ in range(20):
        if error is None or isinstance(error, KeyboardInterrupt):
            break
        error = error.__cause__ or error.__context__
    return isinstance(error, KeyboardInterrupt)


def _no_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "allocate" in str(error))


def _system_error(error: BaseException) -> str | None:
    """Sentence about an error of the operating system or of Python itself."""
    if _no_memory(error):
        return NO_MEMORY
    if isinstance(error, OSError) and error.errno is not None:
        names = [os.fsdecode(n) for n in (error.filename, error.filename2) if isinstance(n, str | bytes | os.PathLike)]
        if error.errno in FULL:
            return FULL[error.errno].format(where=f", for {names[0]}" if names else "")
        if error.errno in SYSTEM:
            return f"{' or '.join(names) or 'A file that this needs'} {SYSTEM[error.errno]}."
        return f"The system refuses {names[0] if names else 'this'} ({error.strerror}): check the path and try again."
    if (isinstance(error, ValueError) and "null byte" in str(error)) or "null character" in str(error):
        return "A path contains a NUL character, which is not allowed in file names: check the path."
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object[:80]!r} contains characters that are not UTF-8 and cannot be written: rename it."
    if isinstance(error, RecursionError):
        return "An input is nested too deeply to be read: make it flatter."
    if isinstance(error, OverflowError) or any(words in str(error) for words in TOO_LARGE):
        return "A number in the input is too large: choose a smaller one."
    if isinstance(error, ModuleNotFoundError) and error.name:
        return (
            f"The package {error.name.partition('.')[0]} is not installed: pip install {error.name.partition('.')[0]}."
        )
    return None


def _library_error(error: BaseException) -> str | None:
    """Sentence about a damaged file that a library could not read."""
    homes = [kind.__module__.partition(".")[0] for kind in type(error).__mro__]
    what = next((LIBRARIES[home] for home in homes if home in LIBRARIES), None)
    if isinstance(error, UnicodeDecodeError):
        what = "A file that should be UTF-8 text"
    if isinstance(error, EOFError):
        what = "A truncated file"
    return f"{what} cannot be read ({error or type(error).__name__}): copy it there again." if what else None


def _suggested_setting(error: Any) -> str:
    """For an unknown option of a command that takes --set: the setting of that name, if there is one."""
    option, context = getattr(error, "option_name", None), getattr(error, "ctx", None)
    if option is None or context is None or "--set" not in {each for p in context.command.params for each in p.opts}:
        return ""
    from cloche.train import settings_called

    meant = [f"--set {key}=..." for key in settings_called(option)]
    return f"{error.message}; it is a setting of the recipe: {' or '.join(meant)}" if meant else ""


def _help_of(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'cloche'} --help"


def code_of(error: BaseException, status: int) -> str:
    """The error code that --json shows: a ClocheError's own, and the closest one for other errors."""
    if isinstance(error, ClocheError) and status == FAILED:
        return error.code
    if status != FAILED:
        return {MISUSED: ArgumentInvalid.code, INTERRUPTED: "INTERRUPTED"}[status]
    if isinstance(error, OSError) and error.errno is not None:
        return WriteRefused.code if error.errno in FULL else FileUnreadable.code
    known = [(_library_error, FileDamaged), (_system_error, OutOfMemory if _no_memory(error) else ArgumentInvalid)]
    return next((kind.code for tells, kind in known if tells(error)), ClocheError.code)


def report_error(error: BaseException, debug: bool, as_json: bool = False) -> int:
    """Prints an error to stderr, after its traceback if `debug`, and to stdout if `as_json`; returns the exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":  # `cloche` or `cloche sae` alone: show its commands
        print(str(error), file=sys.stderr)
        return MISUSED
    sentence, status = sentence_and_status(error)
    if debug:
        import traceback

        traceback.print_exception(error)
    sentence = one_line(sentence)
    if as_json:
        refused: ErrorRecord = {"error": sentence, "code": code_of(error, status)}
        print(json.dumps(refused, ensure_ascii=False))
    print(sentence, file=sys.stderr)
    return status


def one_line(sentence: str) -> str:
    """The sentence with line ends, control characters and lone surrogates (from names) escaped; shortened if very long."""
    if len(sentence) > LONGEST:
        sentence = f"{sentence[: LONGEST - 301]} … {sentence[-298:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in sentence)
