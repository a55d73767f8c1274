"""`cloche recipe`: prints every setting of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloche.cli.options import AsJson, Sets
from cloche.cli.running.grow import read_recipe, settings
from cloche.cli.streams import emit


def print_recipe(
    recipe: Annotated[
        list[Path] | None, typer.Argument(metavar="[RECIPE]", help="A .toml file to complete with defaults.")
    ] = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Print the default recipe, or complete one.

    A recipe file needs only the settings that differ from the default.
    """
    from cloche.train import check_model

    whole = read_recipe(recipe or []).with_set(settings(sets))
    check_model(whole)  # raises now for what `pretrain` would refuse on any machine
    if as_json:
        emit(whole.to_dict())
    else:
        print(whole.to_toml(), end="")
