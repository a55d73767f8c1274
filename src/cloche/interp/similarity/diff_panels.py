"""The panels of `model_diff`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cloche.drawing import Bars, Form, Heatmap, Lines, Panel, Passage, Series, Table, Tokens
from cloche.errors import InstrumentOption
from cloche.interp.similarity.texts import TextChanges
from cloche.interp.subject import Subject, spell
from cloche.sparse import SAE

SHOWN = 5  # passages of each sign
CONTEXT = (16, 4)  # tokens of a passage before and after the token whose loss changed
LISTED = 12  # parameters
FEATURES = 10  # of each end
BINS = 10


def text_panels(found: TextChanges, data: dict[str, Any], subject: Subject) -> Iterator[Panel]:
    yield Tokens(
        "Where the loss changed most",
        tuple(_passages(found, subject)),
        note="Highlighted: by how much each token became easier, or harder.",
    )
    rows = tuple(tuple(row) for row in data["by_token"])
    forms: tuple[Form, ...] = ("token", "number", "number")
    yield Table("Tokens by their mean change in loss", ("token", "occurrences", "change"), rows, forms)
    if found.sites:
        names = tuple(found.sites)
        yield Lines(
            "Distance of the streams, relative to their size",
            names,
            (Series("distance", tuple(found.distance)),),
            low=0.0,
        )
        yield Lines("KL between the logit lenses", names, (Series("KL", tuple(found.lens)),), y_name="nats", low=0.0)


def _passages(found: TextChanges, subject: Subject) -> Iterator[Passage]:
    """The tokens with the largest fall and rise of loss, in their text."""
    change = [each[1] - each[0] for each in found.loss]
    places = [(window, at) for window, each in enumerate(change) for at in range(len(each))]
    flat = torch.cat(change)
    order = flat.argsort().tolist()
    chosen = [i for i in order[:SHOWN] if flat[i] < 0] + [i for i in reversed(order[-SHOWN:]) if flat[i] > 0]
    for i in chosen:
        window, at = places[i]
        here = at + 1  # the first token of a window has no loss
        start, end = max(0, here - CONTEXT[0]), here + CONTEXT[1] + 1
        ids = found.ids[window][start:end].tolist()
        before, after = (float(found.loss[window][row, at]) for row in range(2))
        way, sign = ("easier", -1) if flat[i] < 0 else ("harder", 1)
        own = (sign * torch.cat([torch.zeros(1), change[window]])[start:end]).clamp(min=0)
        yield Passage(
            way, tuple(spell(subject.tokenizer, ids)), tuple(own.tolist()), f"{before:.2f} to {after:.2f} nats"
        )


def weight_panels(data: dict[str, Any]) -> Iterator[Panel]:
    if not data["moved"]:
        return
    parts = list(dict.fromkeys(part for layer, part, _ in data["parts"] if layer is not None))
    layers = sorted({layer for layer, _, _ in data["parts"] if layer is not None})
    at = {(layer, part): value for layer, part, value in data["parts"]}
    grid = [[at.get((layer, part)) for part in parts] for layer in layers]
    names = [f"layer {layer}" for layer in layers]
    yield Heatmap.by_layer("How far each part moved, relative to its norm", names, parts, grid, form="percent")
    rows = tuple(
        (each["name"], each["relative"], each["cosine"], each["leading"], " ".join(map(repr, each["tokens"])))
        for each in data["moved"][:LISTED]
    )
    columns = ("parameter", "moved by", "cosine", "in one direction", "tokens at its two ends")
    forms: tuple[Form, ...] = ("number", "percent", "number", "percent", "number")
    yield Table("Parameters that moved most", columns, rows, forms)


def feature_panels(sae: SAE | None) -> Iterator[Panel]:
    """Features of a crosscoder by the share of their decoder's norm in the second model."""
    if sae is None:
        return
    shares = second_share(sae)
    counts = torch.histc(shares, BINS, 0, 1).tolist()
    places = tuple(f"{i / BINS:.1f} to {(i + 1) / BINS:.1f}" for i in range(BINS))
    note = "Share of a feature's decoder norm in the other model: 0 is only in this one, 1 only in the other."
    yield Bars("Features by model", places, (Series("features", tuple(counts)),), note=note)
    order = shares.argsort().tolist()
    rows = tuple((f"feature {i}", float(shares[i])) for i in [*order[:FEATURES], *reversed(order[-FEATURES:])])
    yield Table("The most exclusive features", ("", "share in the other model"), rows, ("number", "percent"))


def second_share(sae: SAE) -> Tensor:
    """Of each feature of a crosscoder, [features]: the norm of its decoder in the second place over the sum of both."""
    if sae.wiring.name != "crosscoder" or len(sae.wiring.reads) != 2:
        raise InstrumentOption(
            f"sae= is {sae!r}, and models are compared by a crosscoder of two places; train one with "
            "--site 'resid_post[2] + step-000100/resid_post[2]'."
        )
    first, second = (part.detach().float().norm(dim=-1).cpu() for part in sae.blocks(sae.decoder))
    return second / (first + second).clamp(min=torch.finfo(torch.float32).tiny)
