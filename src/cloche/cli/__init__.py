"""The command line. Each command imports the packages it needs when it is called, so that help does not import torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """The `cloche` command: runs one and exits; 0 done, 1 failed, 2 misused, 130 interrupted."""
    try:
        from cloche.cli.app import main as run

        run(argv)
    except KeyboardInterrupt:  # while the commands were being imported, or an error was being reported
        words = list(sys.argv[1:] if argv is None else argv)
        if "--json" in (words[: words.index("--")] if "--" in words else words):
            print('{"error": "Stopped.", "code": "INTERRUPTED"}')
        print("Stopped.", file=sys.stderr)
        sys.exit(130)
    finally:
        # CPython remembers a Ctrl-C that arrived during an exec, which libraries use in their imports, and then exits by
        # the signal instead of the exit code, although it was caught. An exec that succeeds clears this.
        exec("")


__all__ = ["main"]
