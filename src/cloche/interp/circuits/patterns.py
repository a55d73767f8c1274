"""Attention patterns of chosen heads on a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cloche.drawing import Finding, Form, Heatmap, Provenance, Table, visible
from cloche.errors import ArgumentRange, InstrumentOption, ModelUnsupported
from cloche.interp.circuits.heads import repeated, scores_of
from cloche.interp.circuits.scanning import (
    Head,
    blocks_of_rows,
    layers_with_patterns,
    name_of,
    read_heads,
    read_layers,
)
from cloche.interp.subject import Subject, encode, spell
from cloche.model import Network

KINDS = ("induction", "previous", "duplicate", "first")  # the scores whose clearest head is shown by default
MOST_SHOWN = 256  # tokens on an axis
TARGETS = ("first", "previous", "itself", "sink")


class Attention(NamedTuple):
    """What one head does with a text. rows [query, key]: the last rows of its pattern; sink [query]: what they lack to one.
    concentration: 1 - entropy / log(choices), the mean over queries with several choices. shares: the mean attention to each
    of TARGETS over the queries from the second on."""

    rows: Tensor
    sink: Tensor
    concentration: float
    shares: dict[str, float]


@torch.no_grad()
def attention_patterns(
    subject: Subject, prompt: Any, heads: Sequence[str] = (), last: int = 48, seed: int = 0
) -> Finding:
    """Attention patterns of chosen heads on a prompt, one heat map per head: queries down, keys across.

    heads: such as "0.1,2.3", for head 1 of layer 0 and head 3 of layer 2. By default those with the highest induction,
    previous-token, duplicate-token and first-token scores on random repeated tokens (see `head_scores`; drawn by `seed`).
    last: the number of tokens drawn, at the end of the prompt; attention to earlier ones is the column "earlier", and that to
    a learned sink the column "sink", so that every row of the drawing sums to one.

    The headline is the concentration of the pattern, the mean over queries of 1 - entropy / log(choices): 0 if attention is
    uniform, 1 if each query attends to a single token. Further figures are the mean attention to the first token, the
    previous one, the query itself and the sink. The null is the same heads with queries and keys of zero: uniform attention
    over what the mask allows. `arrays`: patterns [head, query, key] of the last queries, sink [head, query], concentration
    [head], ids. Only the layers of these heads are read, in blocks of rows. Raises InstrumentOption for a head that the model
    does not have, ModelUnsupported for a model without attention.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import attention_patterns
    >>> glass = cloche.Glass(LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0))
    >>> finding = attention_patterns(glass, [3, 1, 4, 1, 5], heads="0.1,1.3")
    >>> finding.arrays["patterns"].shape, finding.null["concentration"] < 1e-6
    ((2, 5, 5), True)
    """
    if not 1 <= last <= MOST_SHOWN:
        raise InstrumentOption(f"last={last} must be from 1 to {MOST_SHOWN} tokens.")
    net = subject.net
    text, tokens = encode(subject, prompt)
    given = bool(heads)
    chosen = dict.fromkeys(read_heads(net, heads), "") if given else _clearest(subject, seed)
    ids = torch.tensor([tokens], device=net.embed.weight.device)
    found, uniform = _read(net, ids, list(chosen), last)
    figures, null = _figures(found), _figures(uniform)
    names = [name_of(head) + (f" ({why})" if why else "") for head, why in chosen.items()]
    start = max(0, len(tokens) - last)
    data: dict[str, Any] = {
        "prompt": text,
        "tokens": spell(subject.tokenizer, tokens),
        "heads": [list(head) for head in chosen],
        "from": start,
        "notes": net.beyond(len(tokens)),
    }
    if given:  # otherwise the heads may differ between checkpoints
        data["curves"] = {"concentration": names}
    arrays = {
        "patterns": torch.stack([each.rows for each in found]),
        "sink": torch.stack([each.sink for each in found]),
        "concentration": torch.tensor([each.concentration for each in found]),
        "ids": ids[0],
    }
    most = max(range(len(found)), key=lambda i: found[i].concentration)
    summary = (
        f"Of {len(found)} {'head' if len(found) == 1 else 'heads'} on {len(tokens):,} tokens, {names[most]} has the most "
        f"concentrated attention ({found[most].concentration:.2f}; 0 is uniform, 1 a single token for each query)."
    )
    about = Provenance("attention-patterns", subject.checkpoint, seed=seed)
    drawn = [_map(name, each, data["tokens"], start) for name, each in zip(names, found, strict=True)]
    return Finding(about, summary, figures, data, arrays, null, (*drawn, _table(names, found)))


def _clearest(subject: Subject, seed: int) -> dict[Head, str]:
    """The heads with the highest scores, each with its kind and score; the first heads where the text of the detectors
    does not fit the model."""
    net = subject.net
    layers = layers_with_patterns(net)
    try:
        found = scores_of(net, repeated(subject, None, 2, seed))
    except ArgumentRange:
        return {(layers[0], head): "" for head in range(min(len(KINDS), net.layers[layers[0]].mix.heads))}
    chosen: dict[Head, str] = {}
    for kind in KINDS:
        head = found.clearest(kind)
        value = float(found.by_head[kind][found.layers.index(head[0]), head[1]])
        chosen[head] = ", ".join(filter(None, (chosen.get(head), f"{kind} {value:.2f}")))
    return chosen


def _read(net: Network, ids: Tensor, heads: list[Head], last: int) -> tuple[list[Attention], list[Attention]]:
    """Each head's attention on ids [1, position], and that of the same heads with queries and keys of zero."""
    found: dict[Head, Attention] = {}
    uniform: dict[Head, Attention] = {}

    def take(layer: int, mix: Any, reads: list[Tensor]) -> None:
        own = [head for other, head in heads if other == layer]
        for into, values in ((found, reads), (uniform, [torch.zeros_like(each) for each in reads])):
            for head, attention in zip(own, _of_layer(mix, values, own, last), strict=True):
                into[layer, head] = attention

    read_layers(net, ids, sorted({layer for layer, _ in heads}), take, logits=False)
    if len(found) < len(heads):
        raise ModelUnsupported(
            "A layer of these heads does not offer the sites of its pattern; choose heads of other layers."
        )
    return [found[head] for head in heads], [uniform[head] for head in heads]


def _of_layer(mix: Any, reads: list[Tensor], heads: list[int], last: int) -> list[Attention]:
    """What heads of one layer do, from blocks of rows of which only the last are kept."""
    count = reads[0].shape[1]
    kept: list[Tensor] = []
    sinks: list[Tensor] = []
    total = torch.zeros(len(heads), len(TARGETS), dtype=torch.float64)
    even = torch.zeros(len(heads), dtype=torch.float64)
    several = 0
    for rows, pattern, choices in blocks_of_rows(mix, reads):
        own = pattern[0, heads].double().cpu()  # [head, row, choice]
        rows, choices = rows.cpu(), choices.cpu()
        keys, sink = own[..., :count], own[..., count:].sum(-1)
        entropy = torch.special.entr(own).sum(-1)
        some = choices > 1
        even += (entropy[:, some] / choices[some].double().log()).sum(1)
        several += int(some.sum())
        later = rows >= 1
        i, at = torch.arange(len(rows))[later], rows[later]
        each = (keys[:, i, 0], keys[:, i, at - 1], keys[:, i, at], sink[:, i])
        total += torch.stack([values.sum(1) for values in each], 1)
        recent = rows >= count - last
        kept.append(keys[:, recent].float())
        sinks.append(sink[:, recent].float())
    mean, uneven = total / max(1, count - 1), 1 - even / several if several else torch.zeros_like(even)
    whole, rest = torch.cat(kept, 1), torch.cat(sinks, 1)
    return [
        Attention(whole[i], rest[i], float(uneven[i].clamp(0, 1)), dict(zip(TARGETS, mean[i].tolist(), strict=True)))
        for i in range(len(heads))
    ]


def _figures(found: list[Attention]) -> dict[str, float]:
    """Means over the heads."""
    count = len(found)
    shares = {name: sum(each.shares[name] for each in found) / count for name in _targets(found)}
    return {"concentration": sum(each.concentration for each in found) / count} | shares


def _targets(found: list[Attention]) -> tuple[str, ...]:
    """TARGETS, the sink only if there is one."""
    return tuple(name for name in TARGETS if name != "sink" or any(bool(each.sink.any()) for each in found))


def _map(name: str, found: Attention, tokens: list[str], start: int) -> Heatmap:
    """One head's pattern among the tokens from `start` on, with what it gives to earlier ones and to the sink."""
    shown = tuple(tokens[start:])
    rows = found.rows[:, start:]
    cells = [[value or None for value in row] for row in rows.tolist()]  # blank where the mask hides the key
    columns = shown
    if start:
        cells = [[value, *row] for value, row in zip(found.rows[:, :start].sum(1).tolist(), cells, strict=True)]
        columns = ("(earlier)", *columns)
    if bool(found.sink.any()):
        cells = [[*row, value] for row, value in zip(cells, found.sink.tolist(), strict=True)]
        columns = (*columns, "(sink)")
    note = f"The last {len(shown)} of {len(tokens):,} tokens; queries down, keys across." if start else ""
    return Heatmap(
        f"Attention of {name}",
        tuple(visible(token) for token in shown),
        tuple(visible(token) for token in columns),
        tuple(map(tuple, cells)),
        form="percent",
        low=0.0,
        high=1.0,
        note=note or "Queries down, keys across.",
    )


def _table(names: list[str], found: list[Attention]) -> Table:
    targets = _targets(found)
    rows: tuple[tuple[str | float, ...], ...] = tuple(
        (name, each.concentration, *(each.shares[target] for target in targets))
        for name, each in zip(names, found, strict=True)
    )
    forms: list[Form] = ["number", "number", *(["percent"] * len(targets))]  # type: ignore[list-item]
    return Table("What the heads attend to", ("head", "concentration", *targets), rows, tuple(forms))
