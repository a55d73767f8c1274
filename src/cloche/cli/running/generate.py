"""`cloche generate`: what a model writes after a prompt, as it writes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloche.cli.options import LARGEST_SEED, AsJson, Model
from cloche.cli.outputs import Generated
from cloche.cli.streams import emit

if TYPE_CHECKING:
    from torch import Tensor

    from cloche.glass import Glass


def generate(
    run: Model,
    prompt: Annotated[str, typer.Argument(help="The text to go on from.")] = "",
    new: Annotated[int, typer.Option(max=10**7, help="Tokens to write, unless the model ends the text before.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw from so many of the likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest tokens of this total share.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="The same seed draws the same tokens.")] = 0,
    checkpoint: Annotated[str, typer.Option(help='A step, or "last".')] = "last",
    edit: Annotated[
        list[str] | None, typer.Option(help="An edit, such as 'mlp_out[2].zero()'; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write on from a prompt with a model."""
    import cloche
    from cloche.cli.edits import parse_edit

    glass = cloche.load(run, checkpoint)
    ids, _ = glass.ids(prompt)
    tokenizer = glass.tokenizer
    assert tokenizer is not None, "without one, `ids` has refused the prompt"
    edits = [parse_edit(text, Path(run), glass.sites) for text in edit or []]
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    notes: list[str] = []
    tokens = _tokens(glass, ids, new, edits=edits, notes=notes, **settings)
    if as_json:
        made = list(tokens)
        text = tokenizer.decode_bytes(made).decode("utf-8", "replace")
        record: Generated = {
            "checkpoint": glass.checkpoint,
            "prompt": prompt,
            "text": text,
            "ids": made,
            "edits": edit or [],
            "notes": notes,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "seed": seed,
        }
        emit(record)
        return
    texts = tokenizer.spell(tokens)
    print(prompt + next(texts, ""), end="", flush=True)  # what is refused is refused before anything is printed
    for text in texts:
        print(text, end="", flush=True)
    print()
    for note in notes:
        typer.echo(note, err=True)


def _tokens(glass: Glass, ids: Tensor, new: int, **how: Any) -> Iterator[int]:
    """The ids the model writes, up to `new` of them or to the end of the text."""
    from cloche.decode import stream

    end = glass.tokenizer.end if glass.tokenizer else None
    with closing(stream(glass.net, ids, new=new, exclude=glass.unused, **how)) as tokens:
        for token in tokens:
            if int(token[0]) == end:
                return
            yield int(token[0])
