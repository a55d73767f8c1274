"""`cloche demo`: trains a model in a few minutes and looks inside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloche.cli.options import AsJson, Data, Sets


def demo(
    data: Data = None,
    minutes: Annotated[
        float, typer.Option(metavar="N", help="Minutes of training; everything else takes about two more.")
    ] = 5.0,
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run folder to create.")] = Path("runs/first"),
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Grow a first model from real text, and look inside."""
    from cloche.cli.progress import Screen
    from cloche.cli.running.grow import absolute, print_outcome, settings, start_run
    from cloche.train import Recipe

    changes = {"run.minutes": minutes, "evaluate.look": True, "data.paths": absolute(data) or []}
    recipe = Recipe().with_set({**changes, **settings(sets)})
    screen = Screen(stderr=as_json)
    folder = free_folder(out)
    if folder != out:
        screen.print(f"{out} already holds a run, which is not changed; this one goes to {folder}")
    screen.print(f"{recipe.question.ask} Ctrl-C stops it at any time; cloche resume {folder} continues.")
    run = start_run(folder, recipe, screen)
    screen.print(f"The report is {run.path / 'report.html'}")
    print_outcome(run, screen, as_json)


def free_folder(wanted: Path) -> Path:
    """`wanted`, or the first of wanted-2, wanted-3, ... that does not exist or is empty."""
    number, folder = 1, wanted
    while folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder
