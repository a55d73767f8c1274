"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/first.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to stdout, for programs.")]
Data = Annotated[
    list[Path] | None,
    typer.Option(
        "--data", metavar="PATH...", help="Text files and folders to read; by default Python's standard library."
    ),
]
Model = Annotated[
    str,
    typer.Argument(
        metavar="RUN|MODEL", help="A run, a checkpoint, a Hugging Face folder or the name of a model on the Hub."
    ),
]
Glob = Annotated[str | None, typer.Option(metavar="PATTERN", help="Which files in folders to read, such as '*.rst'.")]
Field = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="The field of JSON records, or the column of parquet files, that contains the text."
    ),
]
Encoding = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="The encoding of files that are not UTF-8, such as latin-1, cp1252 or shift_jis."
    ),
]
Checkpoint = Annotated[str, typer.Option(metavar="STEP", help="The step of a checkpoint, or last.")]
Average = Annotated[
    bool, typer.Option("--average", help="Use the average of the weights that training kept (optimizer.average).")
]
LARGEST_SEED = 2**53  # the largest integer that JSON stores exactly
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE...", help="Change settings of the recipe, such as run.batch=8."),
]
