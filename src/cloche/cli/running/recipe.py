"""`cloche recipe`: every setting of a run, with its default or as a file has it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloche.cli.options import AsJson, Sets
from cloche.cli.running.grow import read_recipe, settings
from cloche.cli.streams import emit


def print_recipe(
    recipe: Annotated[
        list[Path] | None, typer.Argument(metavar="[RECIPE]", help="A .toml file; what it leaves out is the default's.")
    ] = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Print the default recipe, or complete one.

    A recipe file needs only what differs from the default.
    """
    from cloche.train import check_model

    whole = read_recipe(recipe or []).with_set(settings(sets))
    check_model(whole)  # what cannot be trained anywhere is said here, as `pretrain` would
    if as_json:
        emit(whole.to_dict())
    else:
        print(whole.to_toml(), end="")
