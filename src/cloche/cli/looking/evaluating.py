"""`cloche eval`: evaluates a model on tasks, minimal pairs, last words and texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloche.cli.looking.look import keep
from cloche.cli.options import LARGEST_SEED, AsJson, Average, Checkpoint, Model
from cloche.errors import ArgumentInvalid
from cloche.missing import require_file

if TYPE_CHECKING:
    from cloche.drawing import Finding
    from cloche.glass import Glass


def evaluate(
    model: Model,
    tasks: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK...", help="Tasks, such as Add 'ModularAdd(p=7)'; `cloche tasks list` shows all."),
    ] = None,
    shots: Annotated[int, typer.Option(metavar="N", min=0, max=1000, help="Solved items before each question.")] = 0,
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, max=10**6, help="Items of each task, pairs of each file, or last words.")
    ] = 100,
    seed: Annotated[
        int, typer.Option(metavar="SEED", min=0, max=LARGEST_SEED, help="The same seed draws the same items.")
    ] = 0,
    level: Annotated[
        int | None, typer.Option(metavar="N", help="A single level of difficulty; by default all.")
    ] = None,
    fresh: Annotated[
        int | None,
        typer.Option(
            metavar="SEED",
            min=0,
            max=10**6,
            help="Draw new items with this seed, in another form than the training items.",
        ),
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Minimal pairs: JSON lines as in BLiMP, or a folder of them.")
    ] = None,
    last_words: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Texts whose last word to predict: JSON lines as in LAMBADA.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A text file to predict: perplexity and bits per byte.")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=2, max=10**9, help="Tokens of --text to read, from its beginning; by default all."
        ),
    ] = None,
    checkpoint: Checkpoint = "last",
    average: Average = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate a model, with 95% intervals.

    On tasks with known answers, minimal pairs, last words, and the perplexity of a text. The findings are saved in the run,
    where the microscope shows them. `cloche trace RUN eval tasks=Add` follows them over checkpoints.
    """
    import cloche
    from cloche import evals
    from cloche.cli.progress import Screen
    from cloche.runs import Run
    from cloche.tasks import read_task

    lacking = ""
    if not tasks and pairs is None and last_words is None and text is None:
        lacking = "There is nothing to evaluate on: give --tasks, --pairs, --last-words or --text."
    elif tokens is not None and text is None:
        lacking = "--tokens is the most tokens that are read of --text; give that too, or leave it out."
    if lacking:
        raise ArgumentInvalid(lacking)
    chosen = [read_task(line, "--tasks") for line in tasks or []]
    for option, path in (("pairs", pairs), ("last-words", last_words), ("text", text)):
        if path is not None and (option == "text" or not path.is_dir()):
            require_file(path, f"a file for --{option}")
    glass: Glass = cloche.load(model, checkpoint, average=average)
    run = Run.open(model) if (Path(model) / "run.json").is_file() else None

    def findings() -> Iterator[Finding]:
        if chosen:
            yield evals.eval(glass, chosen, shots, limit, seed, level, fresh)
        if pairs is not None:
            yield evals.minimal_pairs(glass, pairs, limit)
        if last_words is not None:
            yield evals.last_words(glass, last_words, limit)
        if text is not None:
            with Screen(stderr=True).bar("reading") as update:
                yield evals.perplexity(glass, text, limit=tokens, seed=seed, on_progress=update)

    keep(findings(), run, as_json)
