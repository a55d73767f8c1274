"""`cloche report`: writes a run as one page that needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloche.cli.options import AsJson, RunFolder
from cloche.cli.outputs import ReportWritten
from cloche.cli.streams import emit
from cloche.errors import FileUnreadable

MARK = b'<meta name="generator" content="cloche'  # near the beginning of every page that cloche wrote
HEAD = 2000  # bytes searched for it


def report_run(
    run: RunFolder,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write the page; by default RUN/report.html.")
    ] = None,
    look: Annotated[
        bool,
        typer.Option("--look", help="First look inside, if not done before: a dictionary, its features, a lens."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a run as one HTML page that needs no network.

    With its curves, samples, health, lens and features, as far as the run has them. A page that cloche wrote before is
    replaced; any other file is an error.
    """
    from cloche.cli.progress import Screen
    from cloche.files import refuse_existing
    from cloche.microscope import write_report
    from cloche.runs import Run

    opened, screen = Run.open(run), Screen(stderr=as_json)
    target = out or opened.path / "report.html"
    if not _is_ours(target):
        refuse_existing(target, "choose another --out")
    if look:
        from cloche.cli.running.inside import look_inside

        look_inside(opened, screen)
    write_report(opened.path, out)
    if as_json:
        answer: ReportWritten = {
            "run": str(run),
            "report": str(target),
            "bytes": target.stat().st_size,
            "checkpoints": len(opened.checkpoints()),
            "findings": len(list((opened.path / "findings").glob("*/*.json"))),
        }
        emit(answer)
    else:
        screen.print(f"{target}: open it in any browser.")


def _is_ours(path: Path) -> bool:
    """Whether a file is a page that cloche wrote."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return MARK in file.read(HEAD)
    except OSError as error:
        raise FileUnreadable(f"{path} cannot be read ({error.strerror}): choose another --out.") from error
