"""Ablation: what a model loses without each head or layer, by what is put in its place."""

from __future__ import annotations

from functools import partial
from statistics import fmean

import torch

from cloche.drawing import Finding, Provenance
from cloche.errors import InstrumentOption
from cloche.interp.metrics import LOGIT_DIFFERENCE, Metric, preference_notes
from cloche.interp.patching.cells import Contrast, by_head, cells, contrasts, last_logits, measured_for
from cloche.interp.patching.grids import Grid
from cloche.interp.patching.replacements import Kind, replacements
from cloche.interp.significance import Answers
from cloche.interp.subject import Subject
from cloche.model import Edit, Result, Site
from cloche.tasks import Task

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
    the other prompts, and of this one with a single pair; "resample": its values at the same positions of up to 4 other
    clean prompts of the same length, and of the corrupted prompt if there are none; "noise": its own values with Gaussian
    noise of their standard deviation, drawn 4 times; "optimal": the constant, fitted on as many further prompts, that moves
    the next token's predictions least (KL divergence from those of the whole model, Li and Janson 2024, 2409.09951). The
    kinds answer different questions, so name the kind with the result; `data` says what was put in place. `metric` is
    measured in its own units.

    The null is the same for a component that is replaced by its own values: 0. `p`: share of 99 random
    renamings of the answers' tokens (among themselves, or with fewer than 4 as any tokens) for which the largest mean fall
    is no smaller; KLDivergence reads no answer and has none. `arrays`: falls [pair, layer, cell]; over several draws their
    mean, and `spread` [layer, cell], the mean standard deviation over draws; of "optimal" kl_mean and kl [layer, cell] in
    nats, of the fitted prompts with the mean and with the constant in place.

    Raises TaskInvalid where the tokenizer cannot express the task, and InstrumentOption for an unknown kind, or for "optimal"
    with a single pair of prompts.

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
    found = contrasts(subject, task, 2 * pairs if kind == "optimal" else pairs, level, seed)
    found, fitting = (found, []) if kind != "optimal" else _split(found)
    replaced = replacements(net, site, kind, found, fitting, seed)
    others = Answers.of(subject, found, seed)
    falls, spreads, starts, null = [], [], [], 0.0
    layers, columns = [""], [""]
    for i, contrast in enumerate(found):
        clean = last_logits(net, contrast.clean)
        start = metric.read_many(clean[None], others.pairs[i], clean)[0].double().cpu()
        saved = net.run(contrast.clean, save=net.sites.resolve(f"{site}.all"), logits=False)
        places = {ALL: tuple(range(contrast.clean.shape[1]))}
        by_draw = [cells(net, site, saved, places, edit) for edit in replaced.edits[i]]
        by_draw.append(cells(net, site, saved, places, partial(_own, saved)))
        layers, columns = [str(each) for each in by_draw[0][0]], by_draw[0][1]
        edits = [edit for _, _, edits in by_draw for edit in edits]
        values = start[:, None] - measured_for(net, contrast.clean, edits, others.pairs[i], metric, clean)
        values = values.view(len(start), len(by_draw), len(layers), -1)  # [answer, draw, layer, cell]
        falls.append(values[:, :-1].mean(1))
        spreads.append(values[0, :-1].std(0, correction=0))
        null = max(null, float(values[0, -1].abs().max()))
        starts.append(float(start[0]))
    measured = torch.stack(falls)  # [pair, answer, layer, cell]
    grid = Grid(measured[:, 0], layers, columns, "prompt", "number")
    arrays = {"falls": grid.effects} | replaced.arrays
    if kind in ("resample", "noise"):
        arrays["spread"] = torch.stack(spreads).mean(0)
    figures = {"largest": grid.largest, "mean": float(grid.mean.mean()), "clean": fmean(starts)}
    figures |= others.p(measured.flatten(2))
    notes = preference_notes(metric, figures["clean"])
    data = grid.data(task, site, metric, "falls", kind=kind, replaced_by=replaced.source, notes=notes)
    what = " ".join(grid.best) if by_head(net, site) else grid.best[0]
    summary = (
        f"With {replaced.source} in place of {what} ({kind} ablation) the {metric} falls by {figures['largest']:.3g} from "
        f"{figures['clean']:.3g}, the most of {grid.mean.numel()} components, over {grid.over(task)}."
    )
    about = Provenance("ablation", subject.checkpoint, seed=seed)
    title = f"Fall of the metric without each part of {site} ({kind} ablation)"
    beside = {_BESIDE[name]: values for name, values in arrays.items() if name in _BESIDE}
    panels = (grid.heatmap(title), grid.table("The largest falls", "fall", **beside))
    return Finding(about, summary, figures, data, arrays, {"largest": null}, panels)


_BESIDE = {"spread": "spread over draws", "kl_mean": "nats of KL, mean", "kl": "nats of KL, constant"}  # in the table


def _split(found: list[Contrast]) -> tuple[list[Contrast], list[Contrast]]:
    """Prompts to report, and others to fit constants on."""
    if len(found) < 2:
        raise InstrumentOption(
            "kind='optimal' fits a constant on other prompts than those it is tried on, and this task has a single pair; "
            "choose kind='mean', or a task with more problems."
        )
    return found[: len(found) // 2], found[len(found) // 2 :]


def _own(saved: Result, each: Site) -> Edit:
    return each.replace(saved)
