"""`cloche rewind`: rebuilds any step of a run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cloche.cli.options import AsJson, RunFolder
from cloche.cli.outputs import StepRewound
from cloche.cli.streams import emit


def rewind(
    run: RunFolder,
    step: Annotated[int, typer.Argument(metavar="STEP", help="Any step that was trained.", min=0)],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Save it in this folder, by default among the run's checkpoints."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild the weights of any step.

    Replays training exactly from the nearest checkpoint before it, compares hashes of the weights with the log, and saves a
    checkpoint of the step. Says why not where a replay would not be exact.
    """
    from cloche import diagnose
    from cloche.cli.progress import Screen

    with Screen(stderr=True).bar("replaying") as update:
        found = diagnose.rewind(run, step, out, update)
    if as_json:
        answer: StepRewound = {"run": str(run), **asdict(found), "path": str(found.path)}  # type: ignore[typeddict-item]
        emit(answer)
        return
    how = f"replayed from step {found.begun:,}" if found.begun < step else "saved already" if out is None else "copied"
    same = "" if found.logged is None else f"; the log has the same weights at step {found.logged:,}"
    print(f"{found.path}: {how}, sha256 of the weights {found.weights[:16]}{same}")
