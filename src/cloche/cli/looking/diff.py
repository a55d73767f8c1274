"""`cloche diff`: what changed from one model to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloche.cli.looking.look import keep_one, write_findings
from cloche.cli.options import LARGEST_SEED, AsJson

FIRST = typer.Argument(
    metavar="A", help="A run, a checkpoint, a Hugging Face folder or the name of a model on the Hub."
)
SECOND = typer.Argument(metavar="B", help="The model to compare it with: a later checkpoint, or a fine-tune.")


def diff(
    first: Annotated[str, FIRST],
    second: Annotated[str, SECOND],
    text: Annotated[
        str, typer.Option(metavar="FILE|TOKENS", help="A text, or how many held-out tokens of A's run.")
    ] = "10240",
    reseeded: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A model like B from another seed: what seeds alone change.")
    ] = None,
    sae: Annotated[
        str | None, typer.Option(metavar="NAME", help="A crosscoder of both models among the dictionaries of A's run.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="SEED", min=0, max=LARGEST_SEED, help="Seed of the bootstrap.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write it to this file: a page if it ends in .html, else JSON."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what changed from model A to model B.

    Losses token by token, the parts and directions that moved, distances of the activations, and what each layer
    predicts. The finding is saved in A's run, if it has one.
    """
    import cloche
    from cloche.files import refuse_existing
    from cloche.interp import Materials, fill_in, find_instrument, read_options
    from cloche.runs import Run

    if out is not None:
        refuse_existing(out, "choose another --out")
    glass = cloche.load(first)
    where = next(
        (folder for folder in (Path(first), *Path(first).parents[:2]) if (folder / "run.json").is_file()), None
    )
    run = None if where is None else Run.open(where)
    name, function = find_instrument("model-diff")
    given = {"other": [second], "windows": [text], "seed": [str(seed)]}
    given |= {key: [value] for key, value in (("reseeded", reseeded), ("sae", sae)) if value is not None}
    materials = Materials(glass, run)
    values = read_options(name, function, given, materials)
    finding = function(glass, **fill_in(name, function, values, materials))
    if out is not None:
        write_findings([finding], out)
    keep_one(finding, run, as_json)
