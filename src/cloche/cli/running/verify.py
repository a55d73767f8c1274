"""`cloche verify`: checks that the files of a run are unchanged."""

from __future__ import annotations

from pathlib import Path

import typer

from cloche.cli.options import AsJson, RunFolder
from cloche.cli.outputs import RunVerified
from cloche.cli.streams import emit


def verify(run: RunFolder, as_json: AsJson = False) -> None:
    """Check that the files of a run are as they were written.

    Exits with 1 if anything has changed: a byte of any file, a record of a log, a missing file, weights that are not
    finite, two checkpoints with the same weights. Files that cloche did not write are notes.
    """
    from cloche import runs

    found = runs.verify(run)
    if as_json:
        answer: RunVerified = {
            "run": str(run),
            "ok": not found.problems,
            "problems": [problem.record() for problem in found.problems],
            "notes": [note.record() for note in found.notes],
        }
        emit(answer)
    else:
        for problem in found.problems:
            print(problem)
        for note in found.notes:
            print(f"note: {note}")
        if not found.problems:
            print(f"{run}: every file is as it was written ({_contents(run)}).")
    if found.problems:
        raise typer.Exit(1)


def _contents(run: Path) -> str:
    from cloche.runs import Run

    opened = Run.open(run)
    counts = {"checkpoint": len(opened.checkpoints()), "finding": len(opened.findings())}
    return ", ".join(f"{count} {what}" if count == 1 else f"{count} {what}s" for what, count in counts.items())
