"""`cloche open`: shows a run in the microscope."""

from __future__ import annotations

from typing import Annotated

import typer

from cloche.cli.options import RunFolder


def open_microscope(
    run: RunFolder,
    port: Annotated[int, typer.Option(metavar="PORT", help="Port on localhost; 0 picks a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open it in a browser.")] = True,
) -> None:
    """Open a run in the microscope, even while it is training."""
    from cloche.microscope import serve

    serve(run, port=port, open_browser=browser)
