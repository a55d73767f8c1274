"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/first.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for programs.")]
Data = Annotated[
    list[Path] | None,
    typer.Option("--data", metavar="PATH...", help="Files and folders to read; by default Python's own library."),
]
LARGEST_SEED = 2**53  # what JSON holds exactly
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE...", help="Change the recipe, such as run.batch=8."),
]
