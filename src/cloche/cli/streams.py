"""Standard input, output and error as a command needs them: open, and able to print any name."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any


def prepare_streams() -> None:
    """Opens those of the three that are closed on the null device, and makes printing never fail for a character.

    A closed one would otherwise be given to the next file that is opened, and what is printed would go into that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def emit(record: Mapping[str, Any]) -> None:
    """What a command reports with --json: one JSON object on stdout; numbers that are not finite are null."""
    from cloche.files import to_json

    print(to_json(record, indent=1).decode())


def flush_output() -> None:
    """Flushes stdout. Where that fails, what is left is thrown away, so that Python does not complain again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        discard_output()
        raise


def discard_output() -> None:
    """Sends what is still to be printed to the null device."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
