"""Difficulty: what inside a model follows the level of a task, and whether the model's answers depend on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cloche.drawing import Finding, Form, Lines, Panel, Provenance, Series, Table
from cloche.errors import InstrumentOption
from cloche.interp.metrics import LogProbability, Metric
from cloche.interp.patching.cells import Contrast, contrasts, measured
from cloche.interp.subject import Subject, read_prompts
from cloche.model import Edit, Network, Site
from cloche.tasks import Task

PERMUTATIONS = 999
UNITS_AT_ONCE = 1 << 16
LEVEL = 0.05  # of the corrected p-values
ABLATED = 5  # units, those that follow the level most, that are ablated
LISTED = 15
LOG_PROBABILITY = LogProbability()


@dataclass(frozen=True)
class Unit:
    """A neuron or head, or a site of a layer, whose statistic is compared with the level."""

    name: str
    site: Site
    index: int | None = None  # of the neuron or head; None for a layer's norm
    width: int = 1  # neurons or heads of the site


@torch.no_grad()
def difficulty(
    subject: Subject,
    task: Task,
    levels: Sequence[int] | None = None,
    items: int = 32,
    without_length: bool = False,
    metric: Metric = LOG_PROBABILITY,
    seed: int = 0,
) -> Finding:
    """Which neurons, heads and layers follow the level of a task, and whether the answers depend on those that do.

    At the token from which the answer is read, for `items` prompts of each of `levels` (by default all): the activation of
    every neuron (mlp_act), the norm of every head's z, the norms of what each layer adds (attn_out, mlp_out) and of the
    stream, and the entropy of the prediction. `r` is the correlation of each with the level. Its p-value is corrected for the
    number of units: the share of 999 shufflings of the levels in which any unit has a larger |r| (Westfall and Young
    1993), so that shuffled levels find something in 5% of cases at the 5% level. Harder prompts are often longer:
    `without_length` takes out what the number of tokens explains, from units and levels alike.

    The neurons and heads that follow it most are then set to their mean over the prompts, one at a time, beside a random
    unit of the same layer: a unit that matters for difficulty lowers `metric` more at the upper levels than at the lower.

    `largest` is the largest |r|, whose null is its mean over the shufflings, and `hits` the number of units with a corrected p
    of at most 5%. `data`: units, r, p, metric by level, ablated. `arrays`: r [unit], p [unit], statistics [item, unit].
    Raises InstrumentOption for fewer than two levels, and where length and level are the same.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import difficulty
    >>> from cloche.tasks import Add
    >>> net = LM(259, 32, Stack(2, Block(Attention(4), GLU(hidden=16)))).build(seed=0)
    >>> glass = cloche.Glass(net, cloche.train_bpe(["a"], vocab=259))
    >>> finding = difficulty(glass, Add(), levels=[1, 3], items=8)
    >>> len(finding.data["units"]), finding.arrays["statistics"].shape  # 32 neurons, 8 heads, 3 norms of 2 layers, entropy
    (47, (16, 47))
    """
    net = subject.net
    levels = sorted(set(task.levels if levels is None else levels))
    if len(levels) < 2:
        raise InstrumentOption(
            f"levels={levels} must name at least two levels, or nothing can follow them; give two or more."
        )
    found = [(level, each) for level in levels for each in contrasts(subject, task, items, level, seed)]
    units = _units(net)
    prompts = [each.clean[0].tolist() for _, each in found]
    logits = read_prompts(prompts, lambda ids: net.run(ids).logits[:, -1])  # [item, vocab]
    statistics = read_prompts(prompts, lambda ids: _statistics(net, ids, units))  # [item, unit]
    level = torch.tensor([float(level) for level, _ in found], dtype=torch.float64)
    length = torch.tensor([float(each.clean.shape[1]) for _, each in found], dtype=torch.float64)
    r, p, shuffled = follows(statistics, level, length if without_length else None, seed)
    scores = torch.tensor(
        [float(metric.read(row, c.answer, c.against, row)) for row, (_, c) in zip(logits, found, strict=True)]
    )
    by_level = [float(scores[level == each].mean()) for each in levels]
    hits = (p <= LEVEL).sum()
    figures = {"largest": float(r.abs().max()), "hits": float(hits), "p": float(p.min())}
    null = {"largest": float(shuffled.mean()), "hits": 0.0, "p": 0.5}
    asked = units, statistics, _pairs(units, r, seed)
    ablated = _ablated(net, found, asked, metric, logits, scores)
    data = {
        "task": str(task),
        "levels": levels,
        "items": len(found),
        "units": [unit.name for unit in units],
        "metric": str(metric),
        "by_level": by_level,
        "ablated": ablated,
        "without_length": without_length,
    }
    about = Provenance("difficulty", subject.checkpoint, seed=seed)
    arrays = {"r": r, "p": p, "statistics": statistics.float()}
    return Finding(about, _summary(data, r, p, ablated), figures, data, arrays, null, _panels(data, r, p))


def follows(statistics: Tensor, level: Tensor, length: Tensor | None, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Correlation of each column [item, unit] with the level [item], its p-value corrected for the number of columns, and the
    largest |r| under each shuffling [PERMUTATIONS]; a column that does not vary has r = 0."""
    columns, target = statistics.double(), level.double()[:, None]
    if length is not None:
        columns, target = _residual(columns, length), _residual(target, length)
        if float(target.norm()) < 1e-6 * float((level - level.mean()).norm()):
            raise InstrumentOption(
                "without_length=true leaves nothing: the prompts' lengths say what level they are of; choose other levels."
            )
    x, y = _standard(columns, statistics.double()), _standard(target, target)[:, 0]
    r = y @ x
    draw = torch.Generator().manual_seed(seed)
    orders = torch.stack([y[torch.randperm(len(y), generator=draw)] for _ in range(PERMUTATIONS)])
    parts = [(orders @ part).abs().amax(1) for part in x.split(UNITS_AT_ONCE, 1)]
    largest = torch.stack(parts).amax(0)
    beaten = torch.searchsorted(largest.sort().values, r.abs() - 1e-9)  # ties count against the unit
    return r, (1 + PERMUTATIONS - beaten).double() / (1 + PERMUTATIONS), largest


def _residual(columns: Tensor, length: Tensor) -> Tensor:
    """What is left of columns [item, unit] after a linear fit of the length [item]."""
    basis = torch.stack([torch.ones_like(length), length - length.mean()], 1)
    if float(basis[:, 1].norm()) == 0:
        return columns - columns.mean(0)
    return columns - basis @ torch.linalg.lstsq(basis, columns).solution


def _standard(columns: Tensor, of: Tensor) -> Tensor:
    """Centred columns of norm one; zero where they vary by less than rounding of the values they are made `of`."""
    columns = columns - columns.mean(0)
    norm = columns.norm(dim=0)
    varies = norm > 1e-6 * of.norm(dim=0)
    return torch.where(varies, columns / norm.clamp(min=1e-300), 0.0)


# ---- statistics


def _units(net: Network) -> list[Unit]:
    """All neurons, heads and layers; the entropy of the prediction comes last."""
    units: list[Unit] = []
    names = dir(net.sites)
    for site in net.sites.mlp_act if "mlp_act" in names else ():
        width = net.sites.shape(site)["hidden"] or 0
        units += [Unit(f"{site} unit {i}", site, i, width) for i in range(width)]
    for site in net.sites.z if "z" in names else ():
        width = net.sites.shape(site)["head"] or 0
        units += [Unit(str(site.head(i)), site, i, width) for i in range(width)]
    for name in ("attn_out", "mlp_out", "resid_post"):
        units += [Unit(f"norm of {site}", site) for site in getattr(net.sites, name)]
    return [*units, Unit("entropy of the prediction", net.sites.logits)]


def _statistics(net: Network, ids: Tensor, units: Sequence[Unit]) -> Tensor:
    """One number per unit at the last token of ids [item, position], [item, unit]."""
    sites = list(dict.fromkeys(unit.site for unit in units))
    result = net.run(ids, save=sites)
    found = []
    for site in sites:
        value = result[site][:, -1].double()
        if site.name == "logits":
            found.append(torch.special.entr(value.softmax(-1)).sum(-1, keepdim=True))
        elif site.name == "mlp_act":
            found.append(value)
        else:
            found.append(value.norm(dim=-1).reshape(len(ids), -1))
    return torch.cat(found, 1).cpu()


# ---- the causal check


def _pairs(units: Sequence[Unit], r: Tensor, seed: int) -> list[tuple[int, int | None]]:
    """The neurons and heads of the largest |r|, each with a random other one of the same layer."""
    draw = torch.Generator().manual_seed(seed)
    able = [i for i in r.abs().argsort(descending=True).tolist() if units[i].index is not None and r[i] != 0][:ABLATED]
    pairs: list[tuple[int, int | None]] = []
    for i in able:
        peers = [j for j, unit in enumerate(units) if unit.site == units[i].site and j not in able]
        pairs.append((i, peers[int(torch.randint(len(peers), (1,), generator=draw))] if peers else None))
    return pairs


def _ablated(
    net: Network,
    found: Sequence[tuple[int, Contrast]],
    asked: tuple[Sequence[Unit], Tensor, Sequence[tuple[int, int | None]]],
    metric: Metric,
    logits: Tensor,
    scores: Tensor,
) -> list[dict[str, Any]]:
    """The mean fall of the metric in the lower and upper half of the levels, for both units of each pair."""
    units, statistics, pairs = asked
    chosen = list(dict.fromkeys(j for pair in pairs for j in pair if j is not None))
    if not chosen:
        return []
    prompts = [contrast.clean[0].tolist() for _, contrast in found]
    heads = dict.fromkeys(units[i].site for i in chosen if units[i].site.name == "z")
    means = {site: read_prompts(prompts, partial(_last, net, site)).mean(0) for site in heads}  # [head, size]
    falls = []
    for item, (_, contrast) in enumerate(found):
        gaps = (statistics.mean(0) - statistics[item])[chosen].tolist()  # of neurons, from their value to their mean
        edits = [_set(units[i], gap, means, contrast.clean.shape[1] - 1) for i, gap in zip(chosen, gaps, strict=True)]
        falls.append(scores[item] - measured(net, contrast.clean, edits, contrast, metric, logits[item]))
    stacked = torch.stack(falls)  # [item, unit]
    middle = sum({level for level, _ in found}) / len({level for level, _ in found})
    upper = torch.tensor([level > middle for level, _ in found])
    at = {i: (float(stacked[~upper, n].mean()), float(stacked[upper, n].mean())) for n, i in enumerate(chosen)}
    return [
        {"unit": units[i].name, "lower": at[i][0], "upper": at[i][1]}
        | ({} if j is None else {"beside": units[j].name, "beside_lower": at[j][0], "beside_upper": at[j][1]})
        for i, j in pairs
    ]


def _last(net: Network, site: Site, ids: Tensor) -> Tensor:
    value: Tensor = net.run(ids, save=[site], logits=False)[site]
    return value[:, -1]


def _set(unit: Unit, gap: float, means: dict[Site, Tensor], last: int) -> Edit:
    """The edit that sets a head at the last token to its mean, or moves a neuron by `gap`."""
    index = unit.index or 0
    if unit.site in means:
        return unit.site.head(index).replace(means[unit.site][index]).at(last)
    change = torch.zeros(unit.width)
    change[index] = gap
    return unit.site.add(change).at(last)


# ---- drawing


def _summary(data: dict[str, Any], r: Tensor, p: Tensor, ablated: list[dict[str, Any]]) -> str:
    best = int(r.abs().argmax())
    hits = int((p <= LEVEL).sum())
    said = (
        f"{hits:,} of {len(r):,} units follow the level of {data['task']} (corrected p at most {LEVEL:.0%}); "
        f"{data['units'][best]} most, r = {float(r[best]):.2f} (p = {float(p[best]):.2g})"
    )
    if not ablated:
        return said + "."
    first = ablated[0]
    return (
        f"{said}; {first['unit']} at its mean lowers the {data['metric']} by {first['lower']:.2g} at the lower levels and "
        f"{first['upper']:.2g} at the upper."
    )


def _panels(data: dict[str, Any], r: Tensor, p: Tensor) -> list[Panel]:
    order = r.abs().argsort(descending=True)[:LISTED].tolist()
    rows = tuple((data["units"][i], float(r[i]), float(p[i])) for i in order)
    forms: tuple[Form, ...] = ("number", "number", "number")
    by_level = Series(data["metric"], tuple(data["by_level"]))
    panels: list[Panel] = [
        Table("Units that follow the level", ("unit", "r", "corrected p"), rows, forms),
        Lines(f"{data['metric']} by level", tuple(map(float, data["levels"])), (by_level,), "level"),
    ]
    if data["ablated"]:
        columns = (
            "unit at its mean",
            "fall, lower levels",
            "upper levels",
            "beside it",
            "lower levels",
            "upper levels",
        )
        keys = ("unit", "lower", "upper", "beside", "beside_lower", "beside_upper")
        body = tuple(tuple(row.get(key) for key in keys) for row in data["ablated"])
        panels.append(
            Table(f"Fall of the {data['metric']} without it, beside a random unit of its layer", columns, body)
        )
    return panels
