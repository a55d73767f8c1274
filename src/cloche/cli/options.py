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
Model = Annotated[
    str, typer.Argument(metavar="RUN|MODEL", help="A run, a checkpoint, a Hugging Face folder, or a name on the Hub.")
]
Glob = Annotated[str | None, typer.Option(help="Read the files in folders that match, such as '*.rst'.")]
Field = Annotated[str | None, typer.Option(help="The field of JSON records and parquet that holds the text.")]
Encoding = Annotated[
    str | None, typer.Option(help="The encoding of files that are not UTF-8, such as latin-1, cp1252 or shift_jis.")
]
LARGEST_SEED = 2**53  # what JSON holds exactly
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE...", help="Change the recipe, such as run.batch=8."),
]
