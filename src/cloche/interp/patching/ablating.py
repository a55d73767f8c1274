"""Ablation: what a model loses without each head or layer, by what is put in its place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from cloche.drawing import Finding, Provenance
from cloche.errors import ArgumentInvalid
from cloche.interp.metrics import LOGIT_DIFFERENCE, Metric
from cloche.interp.patching.cells import Contrast, by_head, cells, contrasts, last_logits, measured
from cloche.interp.patching.grids import Grid
from cloche.interp.subject import Subject
from cloche.model import Edit, Network, Result, Site
from cloche.tasks import Task

Kind = Literal["zero", "mean", "resample", "noise"]
ALL = "all positions"


@torch.no_grad()
def ablation(
    subject: Subject,
    task: Task,
    site: str = "z",
    kind: Kind = "mean",
    metric: Metric = LOGIT_DIFFERENCE,
    pairs: int = 8,
    level: int | None = None,
    seed: int = 0,
) -> Finding:
    """The fall of a metric on a task's clean prompts when each head (or layer) is ablated at all positions, exactly.

    kind: what is put in its place. "zero": zeros, which also removes what is constant; "mean": its mean over all positions of
    the other prompts, and of this one with a single pair; "resample": its values on the corrupted prompt, which differs from
    the clean one in a single variable; "noise": Gaussian noise of its own standard deviation added. The kinds answer different
    questions, so name the kind with the result. `metric` is measured in its own units.

    The null is the same for a component that is replaced by its own values: 0. `arrays`: falls [pair, layer, cell].

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import ablation
    >>> from cloche.tasks import Add
    >>> net = LM(259, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> glass = cloche.Glass(net, cloche.train_bpe(["a"], vocab=259))
    >>> ablation(glass, Add(), pairs=2).arrays["falls"].shape
    (2, 2, 4)
    """
    net = subject.net
    found = contrasts(subject, task, pairs, level, seed)
    replace = _replacement(net, site, kind, found, seed)
    falls, starts, null = [], [], 0.0
    layers, columns = [""], [""]
    for i, contrast in enumerate(found):
        clean = last_logits(net, contrast.clean)
        start = float(metric.read(clean, contrast.answer, contrast.against, clean))
        saved = net.run(contrast.clean, save=net.sites.resolve(f"{site}.all"), logits=False)
        places = {ALL: tuple(range(contrast.clean.shape[1]))}
        sites, columns, edits = cells(net, site, saved, places, replace(i))
        layers = [str(each) for each in sites]
        falls.append((start - measured(net, contrast.clean, edits, contrast, metric, clean)).view(len(layers), -1))
        starts.append(start)
        if i == 0:
            _, _, same = cells(net, site, saved, places, _own(saved))
            null = float((start - measured(net, contrast.clean, same, contrast, metric, clean)).abs().max())
    grid = Grid(torch.stack(falls), layers, columns, "prompt", "number")
    figures = {"largest": grid.largest, "mean": float(grid.mean.mean()), "clean": sum(starts) / len(starts)}
    data = grid.data(task, site, metric, "falls", kind=kind)
    what = " ".join(grid.best) if by_head(net, site) else grid.best[0]
    summary = (
        f"Without {what} ({kind} ablation) the {metric} falls by {figures['largest']:.3g} from {figures['clean']:.3g}, "
        f"the most of {grid.mean.numel()} components, over {grid.over(task)}."
    )
    about = Provenance("ablation", subject.checkpoint, seed=seed)
    title = f"Fall of the metric without each part of {site} ({kind} ablation)"
    panels = (grid.heatmap(title), grid.table("The largest falls", "fall"))
    return Finding(about, summary, figures, data, {"falls": grid.effects}, {"largest": null}, panels)


def _replacement(
    net: Network, site: str, kind: Kind, found: Sequence[Contrast], seed: int
) -> Callable[[int], Callable[[Site], Edit]]:
    """For each pair the edit that ablates a site, or one head of it."""
    sites = net.sites.resolve(f"{site}.all")
    if kind == "zero":
        return lambda i: lambda each: each.zero()
    if kind == "resample":
        saved = [net.run(contrast.corrupted, save=sites, logits=False) for contrast in found]
        return lambda i: lambda each: each.replace(saved[i])
    runs = [net.run(contrast.clean, save=sites, logits=False) for contrast in found]
    whole = {each.layer: torch.cat([run[each] for run in runs], dim=1)[0] for each in sites}  # [position, ...]
    if kind == "noise":
        return lambda i: (
            lambda each: each.noise(float(_of_head(whole[each.layer], each).float().std()) or 1e-12, seed + i)
        )
    if kind != "mean":
        raise ArgumentInvalid(f"kind={kind!r} is not a kind of ablation; it is zero, mean, resample or noise.")
    lengths = [contrast.clean.shape[1] for contrast in found]
    total = {layer: rows.sum(0) for layer, rows in whole.items()}

    def others(i: int, each: Site) -> Tensor:
        own = runs[i][dataclasses.replace(each, head_index=None)][0].sum(0) if len(found) > 1 else 0.0
        rest = sum(lengths) - (lengths[i] if len(found) > 1 else 0)
        return _of_head(((total[each.layer] - own) / rest)[None], each)[0]

    return lambda i: lambda each: each.mean(others(i, each))


def _own(saved: Result) -> Callable[[Site], Edit]:
    return lambda each: each.replace(saved)


def _of_head(rows: Tensor, site: Site) -> Tensor:
    """The part of values [position, ...] that belongs to the site's head, if it names one."""
    return rows if site.head_index is None else rows[:, site.head_index]
