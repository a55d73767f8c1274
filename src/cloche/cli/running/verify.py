"""`cloche verify`: checks that the files of a run are unchanged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cloche.cli.options import AsJson, RunFolder
from cloche.cli.outputs import RunVerified
from cloche.cli.streams import emit


def verify(
    run: RunFolder,
    replay: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Also train again what led to N of the checkpoints, and compare the weights."
        ),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Check that the files of a run are as they were written.

    Exits with 1 if anything has changed: a byte of any file, a record of a log, a missing file, weights that are not
    finite, two checkpoints with the same weights. Files that cloche did not write are notes.
    """
    from cloche import runs

    found = runs.verify(run)
    replayed = list[str]()
    if replay and not found.problems:
        from cloche import diagnose
        from cloche.cli.progress import Screen

        with Screen(stderr=True).bar("replaying") as update:
            replayed, more = diagnose.prove(run, replay, on_progress=update)
        found = replace(found, problems=[*found.problems, *more])
    if as_json:
        answer: RunVerified = {
            "run": str(run),
            "ok": not found.problems,
            "problems": [problem.record() for problem in found.problems],
            "notes": [note.record() for note in found.notes],
        }
        if replay:
            answer["replayed"] = replayed
        emit(answer)
    else:
        for problem in found.problems:
            print(problem)
        for note in found.notes:
            print(f"note: {note}")
        if not found.problems:
            print(f"{run}: every file is as it was written ({_contents(run)}).")
        if replayed:
            print(f"trained again, and compared: {', '.join(replayed)}")
    if found.problems:
        raise typer.Exit(1)


def _contents(run: Path) -> str:
    from cloche.runs import Run

    opened = Run.open(run)
    counts = {"checkpoint": len(opened.checkpoints()), "finding": len(opened.findings())}
    return ", ".join(f"{count} {what}" if count == 1 else f"{count} {what}s" for what, count in counts.items())
