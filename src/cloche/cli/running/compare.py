"""`cloche compare`: trains settings with the same seeds and says which differ."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloche.cli.errors import Stopped
from cloche.cli.looking.look import recorded
from cloche.cli.options import AsJson, Data, Sets
from cloche.cli.running.grow import absolute, read_recipe, settings
from cloche.cli.streams import emit
from cloche.errors import ArgumentInvalid


def compare(
    vary: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=VALUE,VALUE",
            help="A setting and its values; may be repeated for all combinations. A value may be a whole part, such as "
            "optimizer=AdamW,Muon(lr=0.01); it replaces all of that section, such as the recipe's groups and average.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder for the runs and the result.")],
    recipe: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RECIPE]", help="A .toml file; by default the recipe that `cloche recipe` prints."),
    ] = None,
    data: Data = None,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="Seeds of each setting.")] = 3,
    steps: Annotated[int | None, typer.Option(metavar="N", min=1, help="Steps of each run.")] = None,
    minutes: Annotated[
        float | None,
        typer.Option(metavar="N", help="Minutes of the first run; all runs take the steps that fit into them."),
    ] = None,
    monitors: Annotated[
        bool,
        typer.Option(
            "--monitors", help="Also what every monitor says, and what a setting moves beyond the spread over seeds."
        ),
    ] = False,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Compare settings over seeds.

    Trains every combination with each seed, and prints the difference from the first, paired by seed, with its interval:
    better, worse, or within noise and about how many seeds would tell. Called again, it reuses the runs in the folder;
    --seeds and --vary may ask for more of them.
    """
    from cloche import diagnose
    from cloche.cli.progress import Screen
    from cloche.files import to_json, write_atomically

    if minutes is not None and not minutes > 0:
        raise ArgumentInvalid(f"--minutes is {minutes:g}, but must be above 0: give a larger number.")
    base = read_recipe(recipe or [])
    base = base.with_set(({"data.paths": absolute(data)} if data else {}) | settings(sets))
    try:
        with Screen(stderr=True).bar("comparing") as update:
            varied = diagnose.read_variations(vary)
            finding = diagnose.compare(base, varied, out, seeds, steps, minutes, update, monitors)
    except KeyboardInterrupt as error:
        raise Stopped(f"Stopped; give the same command again to go on with the runs in {out}") from error
    path = out / "comparison.json"
    write_atomically(path, to_json(finding.record(), indent=1))
    write_atomically(out / "comparison.html", finding.page().encode())
    if as_json:
        emit(recorded(finding, path))
    else:
        print(f"{finding.text()}\n\n{path}")
