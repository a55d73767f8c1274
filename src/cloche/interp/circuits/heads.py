"""Attention heads by what they attend to, on random tokens that are repeated."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cloche.drawing import Finding, Heatmap, Provenance, Table
from cloche.errors import ArgumentRange, ModelUnsupported, require_whole
from cloche.interp.circuits.chance import beyond_chance
from cloche.interp.circuits.scanning import ROWS, Head, blocks_of_rows, layers_with_patterns, name_of, read_layers
from cloche.interp.circuits.weights import copying, embedding_to_logits, head_weights
from cloche.interp.significance import untrained
from cloche.interp.subject import Subject
from cloche.model import LM, Network

LENGTH = 25  # tokens before their repetition
MOST_DRAWS = 10_000
SCORES = ("induction", "previous", "duplicate", "first", "copying")
NULL_HEADS = 64  # at least, of untrained models: fewer have no reliable spread
TOP = 10  # heads in the table
MOST = 2**24  # numbers in the largest tensor of a pass: texts are read in batches that keep below it


@torch.no_grad()
def head_scores(subject: Subject, length: int = LENGTH, draws: int = 8, ablate: bool = False, seed: int = 0) -> Finding:
    """How much each head attends as a previous-token, induction, duplicate-token or first-token head (Olsson et al. 2022).

    `draws` texts of `length` different random tokens, each repeated once. Mean attention of a head from the queries that have
    the target: to the token before (previous), in the second half to the token after the same token's first occurrence
    (induction) and to that occurrence (duplicate), to the first token (first). 1 is a perfect head. copying: sum of Re(e)
    over sum of |e| of the eigenvalues of the map from tokens to logits through the head's values, without layers in
    between (Elhage et al. 2021): 1 raises the tokens that it attends to, -1 lowers them. `repeat_gain` is what the model gains
    by the repetition, in nats per token. ablate: also what the second half loses, in nats per token, without each head
    (ablated: its `z` is zero everywhere), which takes a pass per head.

    The null is the mean over untrained models of the same parts: as many as have 64 heads. `heads_beyond_chance` counts the
    heads with a score beyond those of untrained heads, at a level of 5% of models, corrected for the number of heads and
    scores; `data` lists them. `arrays`: each score [layer, head], and NAME_null [model, layer, head]; `trace` follows every
    head over a run. One pass, with patterns in blocks of rows, none of which is kept. Layers whose mixer has no pattern are
    listed under `skipped`. Raises ArgumentRange for a length that the vocabulary or the positions do not allow,
    ModelUnsupported for a model without attention.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import head_scores
    >>> glass = cloche.Glass(LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0))
    >>> finding = head_scores(glass, length=10)
    >>> finding.arrays["induction"].shape, finding.figures["induction"] < 0.2
    ((2, 4), True)
    """
    net = subject.net
    ids = repeated(subject, length, draws, seed)
    found = scores_of(net, ids, ablate)
    names, count = tuple(found.by_head), max(1, -(-NULL_HEADS // found.by_head["first"].numel()))
    others = _untrained(net.spec, tuple(map(tuple, ids.tolist())), ids.device, seed, count, ablate)
    nulls = {name: torch.stack([each.by_head[name] for each in others]) for name in names}
    beyond = beyond_chance(found.by_head, nulls)
    some = torch.stack(list(beyond.values())).any(0)
    figures, each = _figures(found), [_figures(one) for one in others]
    null = {name: sum(one[name] for one in each) / len(each) for name in each[0]}
    figures["heads_beyond_chance"] = float(some.sum())
    data: dict[str, Any] = {
        "length": length,
        "draws": draws,
        "layers": found.layers,
        "skipped": [layer for layer in range(len(net.layers)) if layer not in found.layers],
        "beyond_chance": {name: [list(head) for head in _heads(found, beyond[name])] for name in names},
        "curves": {name: [name_of(head) for head in _heads(found, torch.ones_like(some))] for name in names},
        "notes": net.beyond(2 * length) + _out_of_sight(found.hidden, length),
    }
    arrays = found.by_head | {f"{name}_null": values for name, values in nulls.items()}
    clearest = {name: f"{name_of(found.clearest(name))}; untrained {null[name]:.2f}" for name in SCORES[:2]}
    summary = (
        f"The most of induction is {figures['induction']:.2f} ({clearest['induction']}), of the previous token "
        f"{figures['previous']:.2f} ({clearest['previous']}); {int(some.sum())} of {some.numel()} heads differ from untrained "
        f"ones; repeating a text gains {found.gain:.2f} nats per token (untrained {null['repeat_gain']:.2f})."
    )
    about = Provenance("head-scores", subject.checkpoint, seed=seed)
    return Finding(about, summary, figures, data, arrays, null, (_table(found, beyond), *_maps(found)))


@lru_cache(maxsize=16)  # a trace asks for the same at every checkpoint
def _untrained(
    spec: LM, rows: tuple[tuple[int, ...], ...], device: torch.device, seed: int, count: int, ablate: bool
) -> list[Scores]:
    """The scores of untrained models on the texts `rows`, one model at a time."""
    ids = torch.tensor(rows, device=device)
    return [scores_of(untrained(spec, device, seed + i), ids, ablate) for i in range(count)]


def _heads(found: Scores, which: Tensor) -> list[Head]:
    """The heads for which `which` [layer, head] is true."""
    return [(found.layers[layer], head) for layer, head in which.nonzero().tolist()]


def _figures(found: Scores) -> dict[str, float]:
    """The highest of each score that is known, and the gain by repetition."""
    known = {name: values[~values.isnan()] for name, values in found.by_head.items()}
    return {name: float(values.max()) for name, values in known.items() if len(values)} | {"repeat_gain": found.gain}


def _out_of_sight(layers: list[int], length: int) -> list[str]:
    """A sentence, if the mask of some layers hides the repetition."""
    if not layers:
        return []
    which = f"Layer {layers[0]} does" if len(layers) == 1 else f"Layers {', '.join(map(str, layers))} do"
    return [
        f"{which} not see {length} tokens back, so no head there can attend to a repetition; choose a smaller length."
    ]


def repeated(subject: Subject, length: int | None, draws: int, seed: int) -> Tensor:
    """Ids [draw, 2 length] of different random tokens, twice; no special or unused ones. Without a length, the usual one
    or as long as the model allows."""
    net, tokenizer = subject.net, subject.tokenizer
    known = list(range(net.spec.vocab))
    if tokenizer is not None:
        without = {*tokenizer.unused(net.spec.vocab), tokenizer.end}
        known = [i for i in known if i not in without]
    most = min(len(known), (net.length or 2 * len(known)) // 2)
    length = min(LENGTH, most) if length is None else length
    require_whole(1, MOST_DRAWS, draws=draws)
    if not 2 <= length <= most:
        raise ArgumentRange(
            f"length={length} must be between 2 and {most} (different tokens, twice within the model's positions)."
        )
    generator = torch.Generator().manual_seed(seed)
    rows = torch.stack([torch.randperm(len(known), generator=generator)[:length] for _ in range(draws)])
    ids = torch.tensor(known)[rows]
    return torch.cat([ids, ids], 1).to(net.embed.weight.device)


class Scores(NamedTuple):
    """by_head: each score [layer, head], of `layers`. gain: nats per token that the repetition gains. hidden: layers whose
    mask hides a repeated token's first occurrence from every query."""

    by_head: dict[str, Tensor]
    layers: list[int]
    gain: float
    hidden: list[int]

    def clearest(self, name: str) -> Head:
        """The head with the highest score."""
        layer, head = divmod(int(self.by_head[name].nan_to_num(-torch.inf).argmax()), self.by_head[name].shape[1])
        return self.layers[layer], head


@torch.no_grad()
def scores_of(net: Network, ids: Tensor, ablate: bool = False) -> Scores:
    """The scores of every head on repeated tokens `ids` [draw, 2 length], from one pass that stores no pattern."""
    length, layers = ids.shape[1] // 2, layers_with_patterns(net)
    totals, gain = attention_to_targets(net, ids, layers)
    if missing := [layer for layer in layers if not totals[layer]]:
        raise ModelUnsupported(f"Layer {missing[0]} does not offer the sites that its pattern is computed from.")
    between = embedding_to_logits(net)
    by_head: dict[str, list[Tensor]] = {name: [] for name in SCORES}
    hidden = []
    for layer in layers:
        counts = _targets_seen(net.layers[layer].mix, length, ids.device)
        hidden += [layer] if not counts["induction"] * counts["duplicate"] else []
        for name, total in totals[layer].items():
            by_head[name].append(total / (len(ids) * max(1, counts[name])))
        weights, heads = head_weights(net.layers[layer]), net.layers[layer].mix.heads
        unknown = torch.full((heads,), torch.nan, dtype=torch.float64, device=ids.device)
        by_head["copying"].append(unknown if weights is None or between is None else copying(weights, between))
    if ablate:
        by_head["ablated"] = _lost_without(net, layers, ids)
    stacked = {name: torch.nn.utils.rnn.pad_sequence(each, True, torch.nan).cpu() for name, each in by_head.items()}
    return Scores(stacked, layers, gain / len(ids), hidden)


@torch.no_grad()
def attention_to_targets(net: Network, ids: Tensor, layers: list[int]) -> tuple[dict[int, dict[str, Tensor]], float]:
    """Attention [head] of each layer to each kind of target, and the nats per token gained by the repetition, summed over texts
    (attention over queries too)."""
    length = ids.shape[1] // 2
    totals: dict[int, dict[str, Tensor]] = {layer: {} for layer in layers}

    def take(layer: int, mix: Any, reads: list[Tensor]) -> None:
        for name, value in _attention(mix, reads, length).items():
            totals[layer][name] = totals[layer].get(name, 0.0) + value

    gain = 0.0
    widest = max(net.layers[layer].mix.heads for layer in layers)
    for texts in ids.split(max(1, MOST // (2 * length * max(widest * ROWS, net.spec.vocab)))):
        logits = read_layers(net, texts, layers, take)
        nats = torch.nn.functional.cross_entropy(
            logits[:, :-1].float().flatten(0, 1), texts[:, 1:].flatten(), reduction="none"
        ).view(len(texts), -1)  # fmt: skip
        gain += float((nats[:, : length - 1].mean(1) - nats[:, length:].mean(1)).sum())
    return totals, gain


def _lost_without(net: Network, layers: list[int], ids: Tensor) -> list[Tensor]:
    """Nats per token that the second half of repeated tokens loses when each head writes nothing, [head] of each layer."""
    length = ids.shape[1] // 2

    def second_half(logits: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits[:, length:-1].double().mT, ids[:, length + 1 :])

    counts = [net.layers[layer].mix.heads for layer in layers]
    edits = [
        net.sites.z[layer].head(h).zero() for layer, count in zip(layers, counts, strict=True) for h in range(count)
    ]
    lost = net.sweep(ids, edits, second_half) - second_half(net(ids))
    return list(lost.split(counts))


def _targets(rows: Tensor, length: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Queries among `rows` that have each kind of target, and their targets."""
    late, later = rows[rows >= length], rows[rows >= 1]
    return {
        "previous": (later, later - 1),
        "first": (later, torch.zeros_like(later)),
        "induction": (late, late - length + 1),
        "duplicate": (late, late - length),
    }


def _targets_seen(mix: Any, length: int, device: torch.device) -> dict[str, int]:
    """How many queries have each kind of target among the keys that the mask lets them see."""
    targets = _targets(torch.arange(2 * length, device=device), length)
    mask = getattr(getattr(mix, "part", None), "mask", None)
    if mask is None:
        return {name: len(queries) for name, (queries, _) in targets.items()}
    return {name: int(mask.allows(*each).sum()) for name, each in targets.items()}


def _attention(mix: Any, reads: list[Tensor], length: int) -> dict[str, Tensor]:
    """Attention [head] to each kind of target, summed over texts and queries."""
    total: dict[str, Tensor] = {}
    for rows, pattern, _ in blocks_of_rows(mix, reads):
        for name, (queries, keys) in _targets(rows, length).items():
            there = pattern[:, :, queries - rows[0], keys].double().sum((0, 2))
            total[name] = total[name] + there if name in total else there
    return total


def _table(found: Scores, beyond: dict[str, Tensor]) -> Table:
    """The heads with the highest score of induction or of the previous token."""
    scores = found.by_head
    heads = scores["induction"].shape[1]
    either = torch.maximum(scores["induction"], scores["previous"]).flatten().nan_to_num(-1.0)
    rows: list[tuple[str | float, ...]] = []
    for i in either.argsort(descending=True)[:TOP].tolist():
        differs = ", ".join(name for name in scores if beyond[name].flatten()[i])
        values = (float(scores[name].flatten()[i]) for name in scores)
        rows.append((name_of((found.layers[i // heads], i % heads)), *values, differs))
    return Table("The clearest heads", ("head", *scores, "beyond chance in"), tuple(rows))


def _maps(found: Scores) -> list[Heatmap]:
    rows = [f"layer {layer}" for layer in found.layers]
    columns = [f"h{head}" for head in range(found.by_head["induction"].shape[1])]
    shares: dict[str, Any] = {"form": "percent", "low": 0.0, "high": 1.0}
    return [
        Heatmap.by_layer(f"Attention of each head: {name}", rows, columns, found.by_head[name].tolist(), **shares)
        for name in ("induction", "previous")
    ]
