"""`cloche trace`: follows one instrument over all checkpoints of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from cloche.cli.looking.look import Instrument, Options, keep_one, list_instruments, pairs
from cloche.cli.options import LARGEST_SEED, AsJson, RunFolder


def trace(
    run: RunFolder,
    instrument: Instrument = "",
    options: Options = None,
    figure: Annotated[
        str | None, typer.Option(metavar="NAME", help="The figure to follow; by default the headline.")
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="SEED", min=0, max=LARGEST_SEED, help="Seed of the bootstrap over prompts.")
    ] = 0,
    seeds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=1000,
            help="Seeds to run an instrument with that reads no text; by default 4 if it has a curve per head or the like.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Follow an instrument over all checkpoints.

    Finds the onset of its headline: the first checkpoint after which it stays above half of its total gain, with an
    interval over prompts; there is none if the gain is within two spreads of the null. An instrument whose arrays have
    curves, such as head-scores, gets the onset of each. The finding is saved in the run.
    """
    if not instrument:
        list_instruments(as_json)
        return
    import cloche
    from cloche.cli.progress import Screen
    from cloche.interp import Materials, find_instrument, read_options
    from cloche.runs import Run

    opened, screen = Run.open(run), Screen(stderr=True)
    name, function = find_instrument(instrument)
    values = read_options(name, function, pairs(options), Materials(cloche.load(opened), opened))
    with screen.bar("tracing") as update:
        finding = cloche.trace(opened, function, figure=figure, seed=seed, seeds=seeds, on_progress=update, **values)
    keep_one(finding, opened, as_json)
