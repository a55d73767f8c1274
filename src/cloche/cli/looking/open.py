"""`cloche open`: a run in the microscope."""

from __future__ import annotations

from typing import Annotated

import typer

from cloche.cli.options import RunFolder


def open_microscope(
    run: RunFolder,
    port: Annotated[int, typer.Option(help="Port on this machine's loopback; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser there.")] = True,
) -> None:
    """Open a run in the microscope, also while it still trains."""
    from cloche.microscope import serve

    serve(run, port=port, open_browser=browser)
