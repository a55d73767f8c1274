"""`cloche why`: why a run went wrong."""

from __future__ import annotations

from typing import Annotated

import typer

from cloche.cli.looking.look import keep_one
from cloche.cli.options import AsJson, RunFolder


def why(
    run: RunFolder,
    prove: Annotated[
        bool,
        typer.Option(
            "--prove", help="Train the steps where it diverged again with one change each, and say which survive."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say why a run went wrong.

    The step, the layer and quantity that moved first, the batch of that step with its text, and the most likely cause, with
    its confidence and the evidence in numbers; or that no fault was found. Measured of the logs, the checkpoints and the packed
    text; nothing in the run is executed.
    """
    from cloche import diagnose
    from cloche.cli.progress import Screen
    from cloche.runs import Run

    opened = Run.open(run)
    if prove:
        with Screen(stderr=True).bar("replaying") as update:
            finding = diagnose.explain(opened, prove, update)
    else:
        finding = diagnose.explain(opened)
    keep_one(finding, opened, as_json)
