"""`cloche generate`: prints the continuation of a prompt as it is generated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloche.cli.options import LARGEST_SEED, AsJson, Average, Checkpoint, Model
from cloche.cli.outputs import TextGenerated
from cloche.cli.streams import emit

if TYPE_CHECKING:
    from torch import Tensor

    from cloche.glass import Glass


def generate(
    run: Model,
    prompt: Annotated[str, typer.Argument(metavar="[PROMPT]", help="The text to continue.")] = "",
    new: Annotated[
        int, typer.Option(metavar="N", max=10**7, help="Tokens to generate, unless the model ends the text earlier.")
    ] = 128,
    temperature: Annotated[
        float, typer.Option(metavar="T", help="Sampling temperature; 0 always takes the most likely token.")
    ] = 0.8,
    top_k: Annotated[int | None, typer.Option(metavar="K", help="Sample from the K most likely tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(metavar="P", help="Sample from the most likely tokens with total probability P.")
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="SEED", min=0, max=LARGEST_SEED, help="The same seed samples the same tokens.")
    ] = 0,
    checkpoint: Checkpoint = "last",
    edit: Annotated[
        list[str] | None, typer.Option(metavar="EDIT", help="An edit, such as 'mlp_out[2].zero()'; may be repeated.")
    ] = None,
    steer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE:STRENGTH",
            help="Add a vector of `cloche steer`, such as happy.safetensors:0.5; with .at(-1:) only from the prompt's end.",
        ),
    ] = None,
    average: Average = False,
    as_json: AsJson = False,
) -> None:
    """Continue a prompt with a model."""
    import cloche
    from cloche.cli.edits import parse_edit, parse_steering

    glass = cloche.load(run, checkpoint, average=average)
    ids, _ = glass.ids(prompt)
    tokenizer = glass.tokenizer
    assert tokenizer is not None, "`ids` raises if there is no tokenizer"
    edits = [parse_edit(text, Path(run), glass.sites) for text in edit or []]
    edits += [each for text in steer or [] for each in parse_steering(text, glass.net)]
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    notes: list[str] = []
    tokens = _tokens(glass, ids, new, edits=edits, notes=notes, **settings)
    if as_json:
        made = list(tokens)
        text = tokenizer.decode_bytes(made).decode("utf-8", "replace")
        record: TextGenerated = {
            "checkpoint": glass.checkpoint,
            "prompt": prompt,
            "text": text,
            "ids": made,
            "edits": [*(edit or []), *(steer or [])],
            "notes": notes,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "seed": seed,
        }
        emit(record)
        return
    texts = tokenizer.spell(tokens)
    print(prompt + next(texts, ""), end="", flush=True)  # errors are raised before anything is printed
    for text in texts:
        print(text, end="", flush=True)
    print()
    for note in notes:
        typer.echo(note, err=True)


def _tokens(glass: Glass, ids: Tensor, new: int, **how: Any) -> Iterator[int]:
    """Yields the ids that the model generates: at most `new` of them, up to the end of the text."""
    from cloche.decode import stream

    end = glass.tokenizer.end if glass.tokenizer else None
    with closing(stream(glass.net, ids, new=new, exclude=glass.unused, **how)) as tokens:
        for token in tokens:
            if int(token[0]) == end:
                return
            yield int(token[0])
