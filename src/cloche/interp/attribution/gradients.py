"""Attribution patching: every cell's patching effect at once, to first order."""

from __future__ import annotations

import torch
from torch import Tensor

from cloche.drawing import Finding, Provenance, Scatter
from cloche.interp.attribution.agreement import pearson, sign_errors
from cloche.interp.metrics import LOGIT_DIFFERENCE, Metric
from cloche.interp.patching.cells import Contrast, by_head, contrasts, last_logits
from cloche.interp.patching.grids import Grid
from cloche.interp.patching.patch import Direction, patch_effects, scaled
from cloche.interp.subject import Subject
from cloche.model import Network, Site
from cloche.tasks import Task


def attribution_patching(
    subject: Subject,
    task: Task,
    site: str = "resid_pre",
    metric: Metric = LOGIT_DIFFERENCE,
    direction: Direction = "denoise",
    pairs: int = 8,
    level: int | None = None,
    seed: int = 0,
) -> Finding:
    """Activation patching's effects to first order (Nanda 2023): (a_source - a_base) . dm/da at the base prompt, for every cell
    from two passes and one backward.

    Cells, scale and `direction` are those of `activation_patching`. The gradient is blind where the model is saturated: a
    cell behind an attention score far above the others has an effect and no gradient. So the cells of the first pair
    are patched exactly as well: `agreement` is Pearson's correlation of the two, `sign_errors` the share of the cells above
    a tenth of the largest exact effect whose sign is wrong, and the scatter shows each cell. The null is the first pair with
    the base prompt as its own source, where no cell changes. `arrays`: effects [pair, layer, cell], and exact [layer, cell]
    of the first pair. Raises what `activation_patching` raises.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import attribution_patching
    >>> from cloche.tasks import Add
    >>> net = LM(259, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> glass = cloche.Glass(net, cloche.train_bpe(["a"], vocab=259))
    >>> finding = attribution_patching(glass, Add(), pairs=2)
    >>> finding.arrays["effects"].shape, finding.null["largest"] < 1e-5
    ((2, 2, 3), True)
    """
    net = subject.net
    found = contrasts(subject, task, pairs, level, seed)
    exact, _, layers, columns = patch_effects(net, found[0], site, metric, direction)
    effects = torch.stack([_effects(net, contrast, site, metric, direction) for contrast in found])
    grid = Grid(effects, layers, columns)
    first = effects[0].flatten()
    figures = {
        "largest": grid.largest,
        "agreement": pearson(first, exact.flatten()),
        "sign_errors": sign_errors(exact.flatten(), first),
    }
    null = float(_effects(net, found[0], site, metric, direction, same=True).abs().max())
    data = grid.data(task, site, metric, direction=direction)
    summary = (
        f"To first order {' at '.join(grid.best)} has the largest effect of {len(first)} cells, {grid.largest:.0%}; with exact "
        f"patching of the first pair the cells correlate at {figures['agreement']:.2f}, and {figures['sign_errors']:.0%} of "
        f"the large ones have the wrong sign ({grid.over(task)})."
    )
    about = Provenance("attribution-patching", subject.checkpoint, seed=seed)
    points = tuple(zip(exact.flatten().tolist(), first.tolist(), strict=True))
    names = tuple(f"{layer} {column}" for layer in layers for column in columns)
    panels = (
        grid.heatmap(f"Effect of patching {site}, to first order"),
        Scatter("Each cell of the first pair", points, ("exact", "to first order"), names),
        grid.table("The largest effects", "effect", exact=exact),
    )
    return Finding(about, summary, figures, data, {"effects": effects, "exact": exact}, {"largest": null}, panels)


def _effects(
    net: Network, contrast: Contrast, site: str, metric: Metric, direction: Direction, same: bool = False
) -> Tensor:
    """Effects [layer, cell] to first order of one pair; `same`: with the base prompt as its own source."""
    with torch.no_grad():
        clean, corrupted = last_logits(net, contrast.clean), last_logits(net, contrast.corrupted)
    base, other = (
        (contrast.corrupted, contrast.clean) if direction == "denoise" else (contrast.clean, contrast.corrupted)
    )
    sites = net.sites.resolve(f"{site}.all")
    with torch.no_grad():
        source = net.run(base if same else other, save=sites, logits=False)
    with torch.enable_grad():
        result = net.run(base, save=sites, grad=True)
        value = metric.read(result.logits[0, -1], contrast.answer, contrast.against, clean)
        gradients = torch.autograd.grad(value, [result[each] for each in sites], allow_unused=True)
    rows = []
    for each, gradient in zip(sites, gradients, strict=True):
        change = (source[each] - result[each].detach())[0].double()
        product = torch.zeros_like(change) if gradient is None else change * gradient[0].double()
        rows.append(_summed(net, site, each, product, contrast))
    start, ends = metric_ends(metric, contrast, clean, corrupted, direction)
    return scaled(torch.stack(rows).cpu() + start, ends, direction)


def metric_ends(
    metric: Metric, contrast: Contrast, clean: Tensor, corrupted: Tensor, direction: Direction
) -> tuple[float, tuple[float, float]]:
    """The metric of the base prompt, and that of the clean and the corrupted one."""
    read = [float(metric.read(each, contrast.answer, contrast.against, clean)) for each in (clean, corrupted)]
    return read[1 if direction == "denoise" else 0], (read[0], read[1])


def _summed(net: Network, name: str, site: Site, product: Tensor, contrast: Contrast) -> Tensor:
    """Products [position, ...] summed over each cell, [cell]."""
    if by_head(net, name):
        head = site.axes.index("head") - 1  # without the batch
        return product.movedim(head, 0).flatten(1).sum(1)
    rows = product.flatten(1).sum(1)
    return torch.stack([rows[list(there)].sum() for there in contrast.places.values()])
