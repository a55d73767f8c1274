"""Prepares standard input, output and error: all open, and able to print any name."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any


def prepare_streams() -> None:
    """Opens closed standard streams on the null device, and makes printing escape characters that it cannot encode.

    Otherwise the next file opened would get the number of a closed stream, and output would be written into that file.
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
    """Prints the output of --json: one JSON object on stdout; numbers that are not finite are null."""
    from cloche.files import to_json

    print(to_json(record, indent=1).decode())


def flush_output() -> None:
    """Flushes stdout. If that fails, discards the rest, so that Python does not report it again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        discard_output()
        raise


def discard_output() -> None:
    """Redirects remaining output to the null device."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
