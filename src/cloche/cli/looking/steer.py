"""`cloche steer`: makes a steering vector from texts with and without a concept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloche.cli.options import AsJson, Checkpoint, Model
from cloche.cli.outputs import VectorSaved
from cloche.cli.streams import emit

Texts = Annotated[
    Path, typer.Argument(metavar="CONCEPT.jsonl", help='Lines {"positive": TEXT, "negative": TEXT}, best in pairs.')
]


def steer(
    model: Model,
    concept: Texts,
    out: Annotated[Path, typer.Option(metavar="FILE.safetensors", help="The file to write.")],
    site: Annotated[
        str | None, typer.Option(metavar="SITE", help="Where to add it; by default the stream after the middle layer.")
    ] = None,
    method: Annotated[
        str, typer.Option(metavar="METHOD", help="mean-difference, probe or paired-pca.")
    ] = "mean-difference",
    checkpoint: Checkpoint = "last",
    as_json: AsJson = False,
) -> None:
    """Make a steering vector.

    `cloche generate --steer FILE:STRENGTH` adds it; `cloche look RUN steering-comparison concept=CONCEPT.jsonl` compares
    the methods with random directions and shuffled labels.
    """
    import cloche
    from cloche.files import refuse_existing
    from cloche.interp import read_concept, steering_vector

    refuse_existing(out, "choose another --out")
    texts = read_concept(concept)
    vector = steering_vector(cloche.load(model, checkpoint), texts, site, method)  # type: ignore[arg-type]  # checked there
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
