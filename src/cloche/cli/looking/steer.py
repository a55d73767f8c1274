"""`cloche steer`: makes a steering vector from texts, a task, a dictionary's feature or a token."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloche.cli.options import AsJson, Checkpoint, Model
from cloche.cli.outputs import VectorSaved
from cloche.cli.streams import emit
from cloche.errors import FileMissing, InstrumentOption

if TYPE_CHECKING:
    from cloche.glass import Glass
    from cloche.interp import SteeringVector
    from cloche.runs import Run

TOKENS = 10_240  # of held-out text that the unit is measured on
SOURCES = {  # what a vector is made from, and the options that this has
    "CONCEPT.jsonl": ("site", "method"),
    "--task": ("site", "shots", "heads", "level"),
    "--feature": ("text",),
    "--token": ("site", "lens", "text"),
}


def steer(
    model: Model,
    out: Annotated[Path, typer.Option(metavar="FILE.safetensors", help="The file to write.")],
    concept: Annotated[
        Path | None,
        typer.Argument(
            metavar="[CONCEPT.jsonl]",
            help='Lines {"positive": TEXT, "negative": TEXT}, best in pairs: their difference.',
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(metavar="TASK", help="Or a task, such as 'Copy()': its function vector.")
    ] = None,
    feature: Annotated[
        str | None, typer.Option(metavar="NAME[I]", help="Or a feature of a dictionary of the run, such as 'mine[17]'.")
    ] = None,
    token: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="Or a token, such as ' cat': the direction that is read as it.")
    ] = None,
    site: Annotated[
        str | None,
        typer.Option(
            metavar="SITE",
            help="Where to add it; by default the stream after the middle layer, for a task after a third.",
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="METHOD", help="Of texts: mean-difference, probe or paired-pca.")
    ] = None,
    shots: Annotated[
        int | None, typer.Option(metavar="N", help="Of a task: examples in a prompt; 5 by default.")
    ] = None,
    heads: Annotated[
        int | None, typer.Option(metavar="N", help="Of a task: heads; by default 10, at most a quarter of all.")
    ] = None,
    level: Annotated[int | None, typer.Option(metavar="N", help="Of a task: its level.")] = None,
    lens: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of a token: the run's lens to read with, instead of the logit lens."),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Of a feature or token: text to measure the unit on; by default the run's held-out text.",
        ),
    ] = None,
    checkpoint: Checkpoint = "last",
    as_json: AsJson = False,
) -> None:
    """Make a steering vector of texts, a task, a feature or a token.

    `cloche generate --steer FILE:STRENGTH` adds it; `cloche look RUN steering-comparison concept=CONCEPT.jsonl` and
    `cloche look RUN function-vectors task=TASK` test it against random directions and shuffled labels.
    """
    import cloche
    from cloche.interp import SteeringVector
    from cloche.runs import Run

    sources = dict(zip(SOURCES, (concept, task, feature, token), strict=True))
    options = {
        "site": site,
        "method": method,
        "shots": shots,
        "heads": heads,
        "level": level,
        "lens": lens,
        "text": text,
    }
    source = _check(sources, options)
    SteeringVector.check_path(out)  # before the work
    run = Run.open(model) if (Path(model) / "run.json").is_file() else None
    vector = _made(cloche.load(model, checkpoint), run, source, str(sources[source]), options)
    path = vector.save(out)
    if as_json:
        saved: VectorSaved = {
            "path": str(path),
            "site": vector.site,
            "unit": vector.unit,
            "width": len(vector.direction),
            "card": dict(vector.card),
        }
        emit(saved)
        return
    print(f"{path}: {vector.site}, one unit of strength is {vector.unit:.3g} long")


def _check(sources: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """The source that was given. Raises InstrumentOption for none or several, and for another one's options."""
    given = [name for name, value in sources.items() if value is not None]
    if len(given) != 1:
        raise InstrumentOption(
            f"A vector is made from one of {', '.join(SOURCES)}, and {'none' if not given else ' and '.join(given)} "
            f"{'was' if not given else 'were'} given; give one."
        )
    for name, value in options.items():
        if value is not None and name not in SOURCES[given[0]]:
            allowed = ", ".join(f"--{each}" for each in SOURCES[given[0]])
            raise InstrumentOption(
                f"--{name} has no effect on a vector from {given[0]}, which has {allowed}; leave it out."
            )
    return given[0]


def _made(glass: Glass, run: Run | None, source: str, value: str, options: Mapping[str, Any]) -> SteeringVector:
    from cloche.interp import (
        feature_vector,
        function_vector,
        mean_norm,
        open_dictionary,
        open_lens,
        read_concept,
        steering_vector,
        token_vector,
    )

    chosen = {name: each for name, each in options.items() if each is not None and name != "text"}
    if source == "CONCEPT.jsonl":
        return steering_vector(glass, read_concept(value), **chosen)
    if source == "--task":
        from cloche.part import part_from_line
        from cloche.tasks import Task

        return function_vector(glass, part_from_line(value, Task, "--task"), **chosen)
    if source == "--token":
        if lens := chosen.pop("lens", None):
            chosen["lens"] = open_lens(_run(run, "--lens"), lens)
        made = token_vector(glass, value, chosen.pop("site", None), 1.0, **chosen)
    else:
        from cloche.cli.edits import parse_feature

        name, index = parse_feature(value)
        made = feature_vector(glass, open_dictionary(_run(run, "--feature"), name), index, 1.0)
    return dataclasses.replace(made, unit=mean_norm(glass, made.site, _text(glass, run, options["text"])))


def _run(run: Run | None, option: str) -> Run:
    if run is None:
        raise InstrumentOption(f"{option} names something of a run, and this model is not in one; give a run.")
    return run


def _text(glass: Glass, run: Run | None, text: Path | None) -> list[Any]:
    """The text of a file, or the run's held-out text."""
    from cloche.interp import held_out

    if text is not None:
        if not text.is_file():
            raise FileMissing(f"There is no file {text} to measure the unit on; give another --text.")
        return [text.read_text(encoding="utf-8", errors="replace")]
    if run is None:
        raise InstrumentOption(
            "The unit is the site's mean norm on text, and this model is not in a run; add --text FILE."
        )
    return held_out(run, glass, TOKENS)
