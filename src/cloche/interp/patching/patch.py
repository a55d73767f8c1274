"""Activation patching: which values, carried from one prompt to another, carry the answer with them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from cloche.drawing import Finding, Provenance
from cloche.errors import ArgumentInvalid
from cloche.interp.metrics import LOGIT_DIFFERENCE, Metric, preference_notes
from cloche.interp.patching.cells import Contrast, by_head, cells, contrasts, last_logits, measured_for
from cloche.interp.patching.grids import Grid
from cloche.interp.significance import Answers
from cloche.interp.subject import Subject
from cloche.model import Network
from cloche.tasks import Task

SMALLEST = (
    1e-6  # distance of the metric between clean and corrupted, in its units, below which nothing can be scaled by it
)

Direction = Literal["denoise", "noise"]


@torch.no_grad()
def activation_patching(
    subject: Subject,
    task: Task,
    site: str = "resid_pre",
    metric: Metric = LOGIT_DIFFERENCE,
    direction: Direction = "denoise",
    pairs: int = 8,
    level: int | None = None,
    seed: int = 0,
) -> Finding:
    """The exact effect of each cell of a site, patched from one prompt of a pair into the other (Heimersheim and Nanda 2024).

    A cell is a layer and a head for sites with heads (z, q, k, v: all positions), else a layer and a place: the tokens of
    the task's variables, and the last token (with a single pair, such as a `PromptPair`: each token). "denoise" patches
    clean values into the corrupted prompt, and an effect is (m - m_corrupted) / (m_clean - m_corrupted): 1 restores the
    clean answer. "noise" patches corrupted values into the clean prompt, and an effect is (m_clean - m) / (m_clean -
    m_corrupted): 1 destroys it. The two differ: the first finds what suffices, the second what is needed. `metric` is m.
    The notes of some authors call the first kind Patchscopes, a name that Ghandeharioun et al. (2024) gave to reading a
    hidden state by patching it into another prompt.

    The null patches every cell of the first pair with its own value, which changes nothing. `p`: share of 99
    random renamings of the answers' tokens (among themselves, or with fewer than 4 as any tokens) for which the largest
    mean change of m is no smaller; KLDivergence reads no answer and has none. `arrays`: effects [pair, layer,
    cell]. Raises TaskInvalid where the tokenizer cannot express the task, and ArgumentInvalid where the metric is the same on
    both prompts.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import activation_patching
    >>> from cloche.tasks import Add
    >>> net = LM(259, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> glass = cloche.Glass(net, cloche.train_bpe(["a"], vocab=259))
    >>> finding = activation_patching(glass, Add(), pairs=2)
    >>> finding.data["columns"], finding.arrays["effects"].shape, finding.null["largest"] < 1e-5
    (['a', 'b', 'last'], (2, 2, 3), True)
    """
    net = subject.net
    found = contrasts(subject, task, pairs, level, seed)
    others = Answers.of(subject, found, seed)
    changes, ends = [], []
    columns, layers = [""], [""]
    for contrast, answers in zip(found, others.pairs, strict=True):
        change, end, layers, columns = patch_changes(net, contrast, site, metric, direction, answers)
        changes.append(change)
        ends.append(end)
    measured = torch.stack(changes)  # [pair, answer, layer, cell]
    apart = torch.tensor([right - wrong for right, wrong in ends], dtype=torch.float64)
    grid = Grid(measured[:, 0] / apart[:, None, None], layers, columns)
    null = float(_identical(net, found[0], site, metric, direction).abs().max())
    (layer, column), what = grid.best, "head" if by_head(net, site) else "place"
    clean, corrupted = (float(torch.tensor(values).mean()) for values in zip(*ends, strict=True))
    figures = {"largest": grid.largest, "mean": float(grid.mean.mean()), "clean": clean, "corrupted": corrupted}
    figures |= others.p(measured.flatten(2))
    data = grid.data(task, site, metric, direction=direction, notes=preference_notes(metric, clean))
    verb = "restores" if direction == "denoise" else "destroys"
    summary = (
        f"Patching {layer} at {column} {verb} {figures['largest']:.0%} of the {metric} between clean ({clean:.3g}) and "
        f"corrupted ({corrupted:.3g}) prompts, the most of {grid.mean.numel()} cells, over {grid.over(task)}."
    )
    about = Provenance("activation-patching", subject.checkpoint, seed=seed)
    title = f"Effect of patching {site}, by layer and {what}"
    panels = (grid.heatmap(title), grid.table("The largest effects", "effect"))
    return Finding(about, summary, figures, data, {"effects": grid.effects}, {"largest": null}, panels)


def patch_changes(
    net: Network,
    contrast: Contrast,
    site: str,
    metric: Metric,
    direction: Direction,
    answers: Tensor,
) -> tuple[Tensor, tuple[float, float], list[str], list[str]]:
    """What each cell restores or destroys of the metric of each (answer, against) of `answers` [answer, 2], as
    [answer, layer, cell] in its units; the metric of the pair's own answer on its clean and corrupted prompt; and the names
    of the cells."""
    clean, corrupted = last_logits(net, contrast.clean), last_logits(net, contrast.corrupted)
    right, wrong = (float(metric.read(end, contrast.answer, contrast.against, clean)) for end in (clean, corrupted))
    check_apart(metric, right, wrong)
    base, other = ends_of(contrast, direction)
    values, layers, columns = _patched(net, base, other, contrast, site, metric, clean, answers)
    start = metric.read_many((corrupted if direction == "denoise" else clean)[None], answers, clean).double().cpu().T
    change = values - start if direction == "denoise" else start - values
    return change.view(len(answers), len(layers), -1), (right, wrong), layers, columns


def ends_of(contrast: Contrast, direction: Direction) -> tuple[Tensor, Tensor]:
    """The base prompt, and the one that values are patched from."""
    ends = contrast.corrupted, contrast.clean
    return ends if direction == "denoise" else (ends[1], ends[0])


def check_apart(metric: Metric, clean: float, corrupted: float) -> None:
    """Raises ArgumentInvalid where the metric is the same on both prompts of a pair."""
    if not abs(clean - corrupted) > SMALLEST:
        raise ArgumentInvalid(
            f"The {metric} is {clean:.6g} on the clean and on the corrupted prompt alike, so no effect can be scaled by "
            "their difference; choose another metric, task or checkpoint."
        )


def _identical(net: Network, contrast: Contrast, site: str, metric: Metric, direction: Direction) -> Tensor:
    """What patching changes of the metric where source and base are the same prompt, [cell]."""
    base, _ = ends_of(contrast, direction)
    clean = last_logits(net, contrast.clean)
    values, _, _ = _patched(net, base, base, contrast, site, metric, clean, contrast.asked)
    return values[0] - float(metric.read(last_logits(net, base), contrast.answer, contrast.against, clean))


def _patched(
    net: Network,
    base: Tensor,
    other: Tensor,
    contrast: Contrast,
    site: str,
    metric: Metric,
    clean: Tensor,
    answers: Tensor,
) -> tuple[Tensor, list[str], list[str]]:
    """The metric [answer, cell] with each cell of `base` as it is in `other`, and the names of layers and columns."""
    sites = net.sites.resolve(f"{site}.all")
    source = net.run(other, save=sites, logits=False)
    sites, columns, edits = cells(net, site, source, contrast.places, lambda each: each.replace(source))
    return measured_for(net, base, edits, answers, metric, clean), [str(each) for each in sites], columns
