"""`cloche eval`: evaluates a model on tasks, minimal pairs, last words and texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloche.cli.looking.look import recorded
from cloche.cli.options import LARGEST_SEED, AsJson, Checkpoint, Model
from cloche.cli.outputs import FindingsRecord
from cloche.cli.streams import emit
from cloche.errors import ArgumentInvalid

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
    checkpoint: Checkpoint = "last",
    as_json: AsJson = False,
) -> None:
    """Evaluate a model, with 95% intervals.

    On tasks with known answers, minimal pairs, last words, and the perplexity of a text. The findings are saved in the run,
    where the microscope shows them. `cloche trace RUN eval tasks=Add` follows them over checkpoints.
    """
    import cloche
    from cloche import evals
    from cloche.runs import Run
    from cloche.tasks import read_task

    if not tasks and pairs is None and last_words is None and text is None:
        raise ArgumentInvalid("There is nothing to evaluate on: give --tasks, --pairs, --last-words or --text.")
    chosen = [read_task(line, "--tasks") for line in tasks or []]
    glass: Glass = cloche.load(model, checkpoint)
    run = Run.open(model) if (Path(model) / "run.json").is_file() else None
    found: list[Finding] = []
    if chosen:
        found.append(evals.eval(glass, chosen, shots, limit, seed, level, fresh))
    if pairs is not None:
        found.append(evals.minimal_pairs(glass, pairs, limit))
    if last_words is not None:
        found.append(evals.last_words(glass, last_words, limit))
    if text is not None:
        found.append(evals.perplexity(glass, text, seed=seed))
    paths = [None if run is None else each.save(run) for each in found]
    if as_json:
        answer: FindingsRecord = {"findings": [recorded(each, path) for each, path in zip(found, paths, strict=True)]}
        emit(answer)
        return
    for each, path in zip(found, paths, strict=True):
        print(each.text() if path is None else f"{each.text()}\n\n{path}")
