"""The sources of Python's standard library: a corpus that every machine with Python has."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

from cloche.errors import CorpusEmpty

# Its tests are more than half of the library, and many distributions leave them out: without them the corpus is nearly the
# same everywhere, and samples read like library code rather than like assertions. `encodings` is tables of code points,
# and _sysconfigdata is a dump of how this Python was built.
SKIPPED_FOLDERS = {"test", "tests", "idle_test", "encodings", "site-packages", "dist-packages", "__pycache__"}
SKIPPED_FILES = "_sysconfigdata"


def standard_library() -> list[Path]:
    """The .py files of the running Python's standard library, sorted: about 600 files, 11 MB, names relative to its root.

    Left out: tests, site-packages, the tables in `encodings`, the build's own configuration. Raises ClocheError if
    this Python came without its sources.

    >>> from cloche.data import standard_library
    >>> len(standard_library()) > 100
    True
    """
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for place, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS and not name.startswith(("config-", "."))]
        found += [Path(place, name) for name in files if name.endswith(".py") and not name.startswith(SKIPPED_FILES)]
    found = sorted(path for path in found if path.is_file())
    if not found:
        raise CorpusEmpty(f"This Python came without its sources (none in {root}); name a corpus with --data.")
    return found
