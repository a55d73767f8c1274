"""Inhibition: units whose activity holds later ones down, by the weights between them and confirmed by ablation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cloche.drawing import Finding, Form, Panel, Provenance, Scatter, Table
from cloche.errors import CorpusEmpty
from cloche.interp.attribution.agreement import pearson
from cloche.interp.circuits.ends import Readers, Writers, ends, needed
from cloche.interp.route import FIRST
from cloche.interp.significance import p_value
from cloche.interp.subject import Subject, windows_of
from cloche.model import Network
from cloche.sparse import SAE

LISTED = 20  # pairs that are ablated
FEWEST = 5  # tokens at which a unit must be active
MOST_TOKENS = 16_384
ABLATED_TOKENS = 4096
TARGETS = 50  # random targets of each random source
LEVEL = 0.05
AT_ONCE = 1024  # units whose weights to all others are held at a time


@torch.no_grad()
def inhibition(
    subject: Subject, windows: Iterable[Any], sae: SAE | None = None, later: SAE | None = None, seed: int = 0
) -> Finding:
    """Which units inhibit which: negative weights from a unit through the residual stream to one of a later layer, confirmed
    by ablation: the later one rises where the earlier one is active and is removed.

    Units are the neurons of all layers, or the features of a dictionary: `sae` for those that inhibit, `later` for those
    inhibited, which must read a later layer. The weight of a pair is its output row times the other's input row (of a gated
    layer, the gate's), norms' gains folded in. The fall expected of it: weight, times the mean activation where it is positive
    over `windows`, over the norm's scale, in standard deviations of the pre-activation of the inhibited one. The 20
    pairs with the largest are ablated: the earlier unit's positive activations are set to 0, and the later one's
    pre-activation is compared at those tokens.

    `rise` is its mean rise over those pairs, in standard deviations; the null is that of random pairs of the same layers,
    and `p` the share of 50 draws of such pairs with as large a mean. `confirmed` counts pairs that pass two tests at 5%, each
    corrected for the number of pairs: the rise is beyond that of random pairs, and so negative a cosine of the two
    rows is beyond what random directions have anywhere among all pairs; random weights pass the first, because the largest of
    many random weights is large, and not the second. `agreement`: Pearson's correlation of expected and measured changes.

    `data`: pairs. Raises ModelUnsupported for a model without such units in two layers, SiteUnsuitable for dictionaries of
    other sites, and CorpusEmpty for text in which no unit is active.

    >>> import torch
    >>> from cloche import LM, MLP, Attention, Block, Glass, Stack
    >>> from cloche.interp import inhibition
    >>> net = LM(64, 32, Stack(2, Block(Attention(4), MLP("relu", hidden=16)))).build(seed=0)
    >>> with torch.no_grad():
    ...     net.layers[0].map.outer.weight[:, 3] = -4 * net.layers[1].map.inner.weight[5]
    >>> text = torch.randint(64, (8, 32), generator=torch.Generator().manual_seed(0))
    >>> first = inhibition(Glass(net), [text]).data["pairs"][0]
    >>> first["source"], first["target"], first["rise"] > 0.5
    ('mlp_act[0] unit 3', 'mlp_pre[1] unit 5', True)
    """
    net = subject.net
    writers, readers = ends(net, sae, later)
    batches = _batches(subject, windows)
    found = _statistics(net, batches, writers, readers)
    pairs, count = _strongest(writers, readers, found)
    if not pairs:
        raise CorpusEmpty(
            f"No unit that is active at {FEWEST} tokens of this text has a negative weight to a later one; give more text."
        )
    drawn = _random(pairs, writers, readers, found, seed)
    rises = _rises(net, batches, [*pairs, *drawn], writers, readers, found)
    own = [float(rises[i][pair.target]) for i, pair in enumerate(pairs)]
    chance = torch.stack(
        [rise[pair.others] for rise, pair in zip(rises[len(pairs) :], drawn, strict=True)]
    )  # [pair, target]
    rows = [
        _row(pair, rise, chance, writers, readers, len(pairs), count) for pair, rise in zip(pairs, own, strict=True)
    ]
    confirmed = [row for row in rows if row["p"] <= LEVEL and row["p_weight"] <= LEVEL]
    figures = {
        "rise": fmean(own),
        "confirmed": float(len(confirmed)),
        "rising": fmean(float(rise > 0) for rise in own),
        "agreement": _agreement(pairs, own, drawn, chance),
        "p": p_value(fmean(own), chance.mean(0)),
    }
    null = {
        "rise": float(chance.mean()),
        "confirmed": 0.0,
        "rising": float((chance > 0).float().mean()),
        "p": 0.5,
    }
    expected = torch.stack([pair.expected[pair.others] for pair in drawn])
    data = {
        "pairs": rows,
        "of": count,
        "tokens": sum(ids.numel() for ids in batches),
        "random": {"expected": expected.flatten().tolist(), "rise": chance.flatten().tolist()},
    }
    about = Provenance("inhibition", subject.checkpoint, seed=seed)
    return Finding(about, _summary(data, figures, null), figures, data, null=null, panels=_panels(data))


@dataclass(frozen=True, eq=False)
class _Pair:
    """A source and a target, by the index of their groups and in them; the expected rise of every unit of the target's group
    [unit], the cosine of the pair's rows, and, of a random source, random targets."""

    writer: int
    unit: int
    reader: int
    target: int
    expected: Tensor
    cosine: float = 0.0
    others: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))


# ---- weights


def _batches(subject: Subject, windows: Iterable[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for ids in windows_of(subject, windows):
        if ids.shape[1] > FIRST and sum(each.numel() for each in found) < MOST_TOKENS:
            found.append(ids.to(subject.net.embed.weight.device))
    if not found:
        raise CorpusEmpty(
            "Inhibition is measured from the second token of each window on; give windows of two tokens or more."
        )
    return found


@dataclass(frozen=True, eq=False)
class _Statistics:
    """Per group: the mean positive activation of writers, 0 for those seldom active; and for readers the mean of one over the
    norm's scale, over the standard deviation of the pre-activation, 0 for those that do not vary."""

    active: list[Tensor]
    sensitivity: list[Tensor]
    deviation: list[Tensor]


def _statistics(
    net: Network, batches: Sequence[Tensor], writers: Sequence[Writers], readers: Sequence[Readers]
) -> _Statistics:
    sites = needed(writers, readers)
    sums = [torch.zeros(2, len(each.writes), dtype=torch.float64) for each in writers]
    moments = [torch.zeros(2, len(each.reads), dtype=torch.float64) for each in readers]
    scales, tokens = [0.0] * len(readers), 0
    for ids in batches:
        result = net.run(ids, save=sites, logits=False)
        for total, one in zip(sums, writers, strict=True):
            value = one.activations(result[one.read])[:, FIRST:].flatten(0, 1).clamp(min=0).double().cpu()
            total += torch.stack([value.sum(0), (value > 0).sum(0).double()])
        for i, (total, other) in enumerate(zip(moments, readers, strict=True)):
            value = other.activations(result[other.site])[:, FIRST:].flatten(0, 1).double().cpu()
            total += torch.stack([value.sum(0), value.square().sum(0)])
            scales[i] += (
                len(value) if other.scale is None else float(result[other.scale][:, FIRST:].double().reciprocal().sum())
            )
        tokens += ids[:, FIRST:].numel()
    active = [torch.where(n >= FEWEST, total / n.clamp(min=1), 0.0).float() for total, n in sums]
    deviation = []
    for first, second in moments:
        variance = (second / tokens - (first / tokens).square()).clamp(min=0)
        deviation.append(torch.where(variance > 1e-10 * second / tokens, variance.sqrt(), 0.0).float())
    sensitivity = [
        torch.where(sd > 0, scale / tokens / sd.clamp(min=1e-30), 0.0)
        for scale, sd in zip(scales, deviation, strict=True)
    ]
    return _Statistics(active, sensitivity, deviation)


def _strongest(writers: Sequence[Writers], readers: Sequence[Readers], found: _Statistics) -> tuple[list[_Pair], int]:
    """The pairs of the largest expected rise without the source, and how many pairs there are."""
    best: list[tuple[float, int, int, int, int]] = []
    count = 0
    for i, one in enumerate(writers):
        for j, other in enumerate(readers):
            if one.layer >= other.layer:
                continue
            for start in range(0, len(one.writes), AT_ONCE):
                block = slice(start, start + AT_ONCE)
                rise = -_expected(one.writes[block], found.active[i][block], other, found.sensitivity[j])
                top = rise.flatten().topk(min(LISTED, rise.numel()))
                units = (start + top.indices // rise.shape[1]).tolist()
                targets = (top.indices % rise.shape[1]).tolist()
                best += [(v, i, u, j, t) for v, u, t in zip(top.values.tolist(), units, targets, strict=True) if v > 0]
                best = sorted(best, reverse=True)[:LISTED]
            count += len(one.writes) * len(other.reads)
    pairs = []
    for _, i, unit, j, target in best:
        expected = -_expected(writers[i].writes[unit], found.active[i][unit], readers[j], found.sensitivity[j])
        cosine = torch.cosine_similarity(writers[i].writes[unit].double(), readers[j].reads[target].double(), dim=0)
        pairs.append(_Pair(i, unit, j, target, expected, float(cosine)))
    return pairs, count


def _expected(writes: Tensor, active: Tensor, other: Readers, sensitivity: Tensor) -> Tensor:
    """The change that sources [..., width] make in each target, in its standard deviations, [..., target]."""
    return (writes @ other.reads.T) * active[..., None] * sensitivity


def _random(
    pairs: Sequence[_Pair], writers: Sequence[Writers], readers: Sequence[Readers], found: _Statistics, seed: int
) -> list[_Pair]:
    """For every pair, an active source of the same group at random, with random targets of the same group."""
    draw = torch.Generator().manual_seed(seed)
    made = []
    for pair in pairs:
        active = (found.active[pair.writer] > 0).nonzero()[:, 0]
        unit = int(active[torch.randint(len(active), (1,), generator=draw)])
        varies = (found.deviation[pair.reader] > 0).nonzero()[:, 0]
        others = varies[torch.randint(len(varies), (TARGETS,), generator=draw)]
        source = writers[pair.writer]
        expected = -_expected(
            source.writes[unit], found.active[pair.writer][unit], readers[pair.reader], found.sensitivity[pair.reader]
        )
        made.append(_Pair(pair.writer, unit, pair.reader, -1, expected, others=others))
    return made


def chance_of_cosine(cosine: float, width: int, pairs: int) -> float:
    """Probability that any of so many pairs of random directions of `width` numbers has a cosine as negative."""
    grid = np.linspace(-1.0, 1.0, 200_001)
    density = np.maximum(1 - grid**2, 0.0) ** ((width - 3) / 2)
    below = float(density[grid <= cosine].sum() / density.sum())
    return float(-np.expm1(pairs * np.log1p(-min(below, 1 - 1e-15))))


# ---- ablation


def _rises(
    net: Network,
    batches: Sequence[Tensor],
    pairs: Sequence[_Pair],
    writers: Sequence[Writers],
    readers: Sequence[Readers],
    found: _Statistics,
) -> list[Tensor]:
    """For each pair, the mean rise of all units of the target's group where the source is active and is removed, in standard
    deviations, [unit]; 0 where the source is never active in the tokens read."""
    totals = [torch.zeros(len(readers[pair.reader].reads), dtype=torch.float64) for pair in pairs]
    counts, tokens = [0] * len(pairs), 0
    for ids in batches:
        if tokens >= ABLATED_TOKENS:
            break
        tokens += ids.numel()
        used = {pair.writer for pair in pairs}, {pair.reader for pair in pairs}
        sites = (
            [writers[i].read for i in used[0]]
            + [writers[i].written for i in used[0]]
            + [readers[i].site for i in used[1]]
        )
        clean = net.run(ids, save=list(dict.fromkeys(sites)), logits=False)
        activations = {i: writers[i].activations(clean[writers[i].read]).clamp(min=0) for i in used[0]}
        before = {i: readers[i].activations(clean[readers[i].site]) for i in used[1]}
        for n, pair in enumerate(pairs):
            source, target = writers[pair.writer], readers[pair.reader]
            activation = activations[pair.writer][..., pair.unit]
            where = activation > 0
            where[:, :FIRST] = False
            if not bool(where.any()):
                continue
            value = clean[source.written]
            left = value - source.contribution(pair.unit, activation * where, value.shape[-1]).to(value)
            edited = net.run(ids, save=[target.site], edits=[source.written.replace(left)], logits=False)
            change = target.activations(edited[target.site]) - before[pair.reader]
            totals[n] += change[where.to(change.device)].double().sum(0).cpu()
            counts[n] += int(where.sum())
    out = []
    for pair, total, count in zip(pairs, totals, counts, strict=True):
        sd = found.deviation[pair.reader].double()
        out.append((total / max(1, count) / sd.clamp(min=1e-30)).where(sd > 0, 0.0).float())
    return out


# ---- the finding


def _row(
    pair: _Pair,
    rise: float,
    chance: Tensor,
    writers: Sequence[Writers],
    readers: Sequence[Readers],
    listed: int,
    count: int,
) -> dict[str, Any]:
    one, other = writers[pair.writer], readers[pair.reader]
    return {
        "source": f"{one.read} {one.name} {pair.unit}",
        "target": f"{other.site} {other.name} {pair.target}",
        "cosine": pair.cosine,
        "p_weight": chance_of_cosine(pair.cosine, one.writes.shape[1], count),
        "expected": float(pair.expected[pair.target]),
        "rise": rise,
        "p": min(1.0, listed * p_value(rise, chance.flatten())),
    }


def _agreement(pairs: Sequence[_Pair], own: Sequence[float], drawn: Sequence[_Pair], chance: Tensor) -> float:
    expected = torch.cat([torch.stack([p.expected[p.target] for p in pairs]), *(p.expected[p.others] for p in drawn)])
    return pearson(expected, torch.cat([torch.tensor(own), chance.flatten()]))


def _summary(data: dict[str, Any], figures: dict[str, float], null: dict[str, float]) -> str:
    first = data["pairs"][0]
    listed = len(data["pairs"])
    return (
        f"Of the {listed} most negative weights among {data['of']:,} pairs {figures['confirmed']:.0f} inhibit beyond chance: "
        f"without {first['source']} {first['target']} rises by {first['rise']:.2g} standard deviations where the first is "
        f"active; the mean over the {listed} is {figures['rise']:.2g} ({null['rise']:.2g} for random pairs)."
    )


def _panels(data: dict[str, Any]) -> list[Panel]:
    keys = ("source", "target", "cosine", "p_weight", "expected", "rise", "p")
    columns = (
        "inhibits",
        "inhibited",
        "cosine",
        "p of the weight",
        "rise expected",
        "rise when ablated",
        "p of the rise",
    )
    rows = tuple(tuple(row[key] for key in keys) for row in data["pairs"])
    forms: tuple[Form, ...] = ("number",) * 7
    own = [(row["expected"], row["rise"]) for row in data["pairs"]]
    drawn = list(zip(data["random"]["expected"], data["random"]["rise"], strict=True))
    note = (
        "Both p are corrected, for the pairs listed or for all; rises are in standard deviations of the inhibited unit."
    )
    return [
        Table("Pairs with the most negative weights", columns, rows, forms, note),
        Scatter(
            "Rise of the later unit without the earlier one, expected and measured",
            tuple(own + drawn),
            ("expected", "measured"),
            labels=tuple(f"{row['source']} to {row['target']}" for row in data["pairs"])
            + ("random pair",) * len(drawn),
            values=(1.0,) * len(own) + (0.0,) * len(drawn),
        ),
    ]
