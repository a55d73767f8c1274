"""The commands. Each imports the packages it needs when it is called, so that help costs no torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """The `cloche` command: runs one and exits; 0 done, 1 failed, 2 misused, 130 interrupted."""
    try:
        from cloche.cli.app import main as run

        run(argv)
    except KeyboardInterrupt:  # while the commands were still being imported, or while an error was being reported
        words = list(sys.argv[1:] if argv is None else argv)
        if "--json" in (words[: words.index("--")] if "--" in words else words):
            print('{"error": "Stopped.", "code": "INTERRUPTED"}')
        print("Stopped.", file=sys.stderr)
        sys.exit(130)
    finally:
        # CPython remembers a Ctrl-C that fell into an exec, as libraries use it in their imports, and then ends by the signal
        # instead of the exit code, although it was caught. An exec that succeeds makes it forget.
        exec("")


__all__ = ["main"]
