"""`cloche verify`: is every file still as it was written?"""

from __future__ import annotations

from pathlib import Path

import typer

from cloche.cli.options import AsJson, RunFolder
from cloche.cli.streams import emit


def verify(run: RunFolder, as_json: AsJson = False) -> None:
    """Check every file of a run against what was written.

    Exits with 1 where something differs: a hash, a missing file, a torn log, two steps with the same weights.
    """
    from cloche import runs

    problems = runs.verify(run)
    if as_json:
        found = [{"where": problem.where, "what": problem.what, "mend": problem.mend} for problem in problems]
        emit({"run": str(run), "ok": not problems, "problems": found})
    elif problems:
        for problem in problems:
            print(problem)
    else:
        print(f"{run}: every file is as it was written ({_contents(run)}).")
    if problems:
        raise typer.Exit(1)


def _contents(run: Path) -> str:
    from cloche.runs import Run

    opened = Run.open(run)
    return f"{len(opened.checkpoints())} checkpoints, {len(opened.findings())} findings"
