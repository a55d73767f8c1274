"""`glasshouse generate`: what a run writes after a prompt, as it writes it."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glasshouse.cli.options import AsJson, RunFolder

if TYPE_CHECKING:
    from glasshouse.glass import Glass


def generate(
    run: RunFolder,
    prompt: Annotated[str, typer.Argument(help="The text to go on from.")] = "",
    new: Annotated[int, typer.Option(help="Tokens to write, unless the model ends the text before.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw from so many of the likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest tokens of this total share.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed draws the same tokens.")] = 0,
    checkpoint: Annotated[str, typer.Option(help='A step, or "last".')] = "last",
    edit: Annotated[
        list[str] | None, typer.Option(help="An edit, such as 'mlp_out[2].zero()'; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write on from a prompt with a run's model."""
    import glasshouse
    from glasshouse.cli.edits import parse_edit

    folder = _checkpoint_folder(run, checkpoint)
    glass = glasshouse.load(folder)
    edits = [parse_edit(text, run) for text in edit or []]
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    tokens = _tokens(glass, prompt, new, edits=edits, **settings)
    if as_json:
        ids = list(tokens)
        text = glass.tokenizer.decode_bytes(ids).decode("utf-8", "replace")
        record = {
            "checkpoint": folder.name,
            "prompt": prompt,
            "text": text,
            "ids": ids,
            "edits": edit or [],
            **settings,
        }
        print(json.dumps(record, ensure_ascii=False))
        return
    print(prompt, end="", flush=True)
    for text in spell(glass.tokenizer, tokens):
        print(text, end="", flush=True)
    print()


def _checkpoint_folder(run: Path, which: str) -> Path:
    """A run's checkpoint; or the folder itself where it is a checkpoint or a Hugging Face model."""
    from glasshouse.runs import Run

    if (run / "config.json").is_file() and not (run / "run.json").exists():
        return run
    return Run.open(run).checkpoint(which).path


def _tokens(glass: Glass, prompt: str, new: int, **how: Any) -> Iterator[int]:
    """The ids the model writes, up to `new` of them or to the end of the text."""
    from glasshouse.decode import stream
    from glasshouse.errors import GlasshouseError

    ids = glass.tokenizer.encode(prompt)
    if not ids:
        if glass.tokenizer.end is None:
            raise GlasshouseError("This tokenizer has no end-of-text token to begin from; give a prompt.")
        ids = [glass.tokenizer.end]  # a text begins where the one before it ended
    for token in stream(glass.net, [ids], new=new, **how):
        id = int(token[0])
        if id == glass.tokenizer.end:
            return
        yield id


def spell(tokenizer: Any, tokens: Iterator[int]) -> Iterator[str]:
    """The text of tokens as soon as it is whole: a character may be spread over several tokens."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in tokens:
        if text := decoder.decode(tokenizer.decode_bytes([token])):
            yield text
    if rest := decoder.decode(b"", final=True):
        yield rest
