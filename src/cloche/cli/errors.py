"""How a verb ends: one sentence on stderr and an exit code. A traceback is shown only with --debug."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cloche.errors import ClocheError

FAILED, MISUSED, INTERRUPTED = 1, 2, 130


class Stopped(Exception):
    """The user interrupted; the message says how to go on."""


@contextmanager
def resumable(run: Path) -> Iterator[None]:
    """Turns Ctrl-C into the sentence that says how to go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Stopped(f"Stopped; go on with: cloche resume {run}") from error


def sentence_and_code(error: BaseException) -> tuple[str, int]:
    """What to print about an error, and what to exit with."""
    if isinstance(error, Stopped):
        return str(error), INTERRUPTED
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__cause__, KeyboardInterrupt):
        return "Stopped.", INTERRUPTED
    if isinstance(error, ClocheError):
        return str(error), FAILED
    if isinstance(error, MemoryError):
        return "There is not enough memory for this; try a smaller model, batch or length.", FAILED
    if formatted := getattr(error, "format_message", None):  # a wrong command line, as typer sees it
        return f"{formatted().rstrip('.')}; see {_help_of(error)}.", MISUSED
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"cloche met something it did not expect ({what}); run it again with --debug to see where.", FAILED


def _help_of(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'cloche'} --help"


def report(error: BaseException, debug: bool) -> int:
    """Prints an error to stderr, after its traceback where `debug` is set; returns the exit code."""
    sentence, code = sentence_and_code(error)
    if debug:
        import traceback

        traceback.print_exception(error)
    print(sentence, file=sys.stderr)
    return code
