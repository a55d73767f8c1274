"""Attribution patching: every cell's patching effect at once, to first order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.drawing import Finding, Panel, Provenance, Scatter
from cloche.interp.attribution.agreement import pearson, sign_errors
from cloche.interp.attribution.slopes import Slopes, slopes
from cloche.interp.metrics import LOGIT_DIFFERENCE, Metric
from cloche.interp.patching.cells import Contrast, by_head, contrasts
from cloche.interp.patching.grids import Grid
from cloche.interp.patching.patch import Direction, patch_changes
from cloche.interp.significance import Answers
from cloche.interp.subject import Subject
from cloche.model import Network, Site
from cloche.tasks import Task

ASKING = ("q", "k")  # sites whose effect goes through the softmax alone


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
    of all pairs from two passes and one backward.

    Cells, scale and `direction` are those of `activation_patching`. The gradient is blind where the model is saturated: a
    query or key at an attention score far above the others has an effect and no gradient. So those of q and k are corrected
    (AtP*, Kramar et al. 2024, 2403.00745): the pattern is computed again with the patched queries or keys, and its change
    times dm/dpattern is the effect, without another pass. The cells of the first pair are patched exactly as well:
    `agreement` is Pearson's correlation of the two, `sign_errors` the share of the cells above a tenth of the largest
    exact effect whose sign is wrong, and the scatter shows each cell. The null is the first pair with the base prompt as
    its own source, where no cell changes; `p` is that of `activation_patching` for the exact effects of the first pair.
    `arrays`: effects [pair, layer, cell], exact [layer, cell] of the first pair, and of q and k gradient [pair, layer,
    cell], the effects without the correction, whose agreement is in the figures too.

    Raises what `activation_patching` raises, and InstrumentOption for a metric without a gradient.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import attribution_patching
    >>> from cloche.tasks import Add
    >>> net = LM(259, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> glass = cloche.Glass(net, cloche.train_bpe(["a"], vocab=259))
    >>> finding = attribution_patching(glass, Add(), pairs=2)
    >>> finding.arrays["effects"].shape, finding.null["largest"]
    ((2, 2, 3), 0.0)
    """
    asked = _Question(subject.net, contrasts(subject, task, pairs, level, seed), site, metric, direction)
    about = Provenance("attribution-patching", subject.checkpoint, seed=seed)
    return _finding(subject, asked, about, task)


def relevance_patching(
    subject: Subject,
    task: Task,
    site: str = "resid_pre",
    metric: Metric = LOGIT_DIFFERENCE,
    direction: Direction = "denoise",
    pairs: int = 8,
    level: int | None = None,
    seed: int = 0,
) -> Finding:
    """Attribution patching with the gradient of the frozen linear model in place of the network's (RelP, Jafari et al. 2025,
    2508.21258).

    In that model (`FrozenModel`) attention patterns, norm scales and the slopes of activations are held at their values in
    the base prompt, and a gate and what it multiplies share their product half each; the metric and a soft cap of the
    logits have their own gradient. The cost is that of `attribution_patching`, as are options, cells, figures, the null and
    `arrays`. In the paper it correlates with exact patching of GPT-2's MLP outputs at 0.99, where gradients do at 0.20; in
    small models it is sometimes the better and sometimes the worse of the two, so read `agreement` of both.

    Raises what `activation_patching` raises; SiteUnsuitable for q and k, whose patterns are held fixed; ModelUnsupported
    for a part that does not say what of it is held fixed.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import relevance_patching
    >>> from cloche.tasks import Add
    >>> net = LM(259, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> glass = cloche.Glass(net, cloche.train_bpe(["a"], vocab=259))
    >>> finding = relevance_patching(glass, Add(), site="mlp_out", pairs=2)
    >>> finding.arrays["effects"].shape, finding.null["largest"]
    ((2, 2, 3), 0.0)
    """
    asked = _Question(subject.net, contrasts(subject, task, pairs, level, seed), site, metric, direction, linear=True)
    about = Provenance("relevance-patching", subject.checkpoint, seed=seed)
    return _finding(subject, asked, about, task)


@dataclass(frozen=True, eq=False)
class _Question:
    """The cells of a site for some pairs. linear: with gradients of the frozen linear model."""

    net: Network
    found: Sequence[Contrast]
    site: str
    metric: Metric
    direction: Direction
    linear: bool = False

    def effects(self) -> tuple[dict[str, Tensor], float]:
        """effects and, where they are corrected, gradient: [pair, layer, cell]; and the largest if no cell changes."""
        sites = self.net.sites.resolve(f"{self.site}.all")
        by_head(self.net, self.site)  # or the site has no cells
        corrected = self.site in ASKING and not self.linear
        asked = [each for site in sites for each in _patterns(self.net, site)] if corrected else sites
        effects, null = dict[str, dict[int, Tensor]](), 0.0
        for own, numbers in slopes(self.net, self.found, asked, self.metric, self.direction, self.linear):
            for name, values in self._added(sites, numbers, corrected).items():
                effects.setdefault(name, {}).update(zip(own, numbers.share(values).cpu(), strict=True))
            unchanged = self._added(sites, dataclasses.replace(numbers, source=numbers.base), corrected)
            null = max(null, float(numbers.share(unchanged["effects"]).abs().max()))
        return {name: torch.stack([by[i] for i in range(len(by))]) for name, by in effects.items()}, null

    def _added(self, sites: Sequence[Site], numbers: Slopes, corrected: bool) -> dict[str, Tensor]:
        """What each cell adds to the metric, [pair, layer, cell]."""
        plain = torch.stack([self._summed(site, numbers) for site in sites], 1)
        if not corrected:
            return {"effects": plain}
        return {
            "effects": torch.stack([_through_softmax(self.net, site, numbers) for site in sites], 1),
            "gradient": plain,
        }

    def _summed(self, site: Site, numbers: Slopes) -> Tensor:
        """First-order effects summed over each cell, [pair, cell]."""
        product = numbers.first_order(site)
        if by_head(self.net, self.site):
            return product.movedim(site.axes.index("head"), 1).flatten(2).sum(2)
        rows = zip(product.flatten(2).sum(2), numbers.contrasts, strict=True)
        return torch.stack(
            [torch.stack([row[list(there)].sum() for there in pair.places.values()]) for row, pair in rows]
        )


def _patterns(net: Network, site: Site) -> list[Site]:
    """q, k and pattern of the site's layer."""
    return [net.sites.resolve(f"{name}[{site.layer}]")[0] for name in (*ASKING, "pattern")]


@torch.no_grad()
def _through_softmax(net: Network, site: Site, numbers: Slopes) -> Tensor:
    """What the change of each head of q or k adds to the metric by its pattern, [pair, head]; of a key head by the patterns of
    all queries that read it."""
    q, k, pattern = _patterns(net, site)
    rows = torch.arange(numbers.base[q].shape[1], device=numbers.base[q].device)

    def patterns(queries: Tensor, keys: Tensor) -> Tensor:
        return net.layers[site.layer or 0].mix.pattern_rows(rows, queries, keys)[0][..., : len(rows)].double()

    patched = {**{each: numbers.base[each] for each in (q, k)}, site: numbers.source[site]}
    change = patterns(patched[q], patched[k]) - patterns(numbers.base[q], numbers.base[k])
    by_query = (change * numbers.gradient[pattern].double()).sum((-2, -1))
    return by_query.unflatten(1, (numbers.base[site].shape[2], -1)).sum(-1)


def _finding(subject: Subject, asked: _Question, about: Provenance, task: Task) -> Finding:
    answers = Answers.of(subject, asked.found[:1], about.seed or 0)
    change, ends, layers, columns = patch_changes(
        asked.net, asked.found[0], asked.site, asked.metric, asked.direction, answers.pairs[0]
    )
    exact = change[0] / (ends[0] - ends[1])
    arrays, null = asked.effects()
    grid, how = (
        Grid(arrays["effects"], layers, columns),
        "in the frozen linear model" if asked.linear else "to first order",
    )
    figures, scatters = {"largest": grid.largest}, []
    names = tuple(f"{layer} {column}" for layer in layers for column in columns)
    for name, values in arrays.items():
        before, first = "" if name == "effects" else f"{name}_", values[0].flatten()
        figures[f"{before}agreement"] = pearson(first, exact.flatten())
        figures[f"{before}sign_errors"] = sign_errors(exact.flatten(), first)
        points = tuple(zip(exact.flatten().tolist(), first.tolist(), strict=True))
        scatters.append(Scatter(f"Each cell of the first pair ({name})", points, ("exact", how), names))
    figures |= answers.p(change[None].flatten(2))
    summary = (
        f"{how[0].upper()}{how[1:]} {' at '.join(grid.best)} has the largest effect of {exact.numel()} cells, "
        f"{grid.largest:.0%}; with exact patching of the first pair the cells correlate at {figures['agreement']:.2f}, and "
        f"{figures['sign_errors']:.0%} of the large ones have the wrong sign ({grid.over(task)})."
    )
    data = grid.data(task, asked.site, asked.metric, direction=asked.direction)
    panels: list[Panel] = [
        grid.heatmap(f"Effect of patching {asked.site}, {how}"),
        *scatters,
        grid.table("The largest effects", "effect", exact=exact),
    ]
    return Finding(about, summary, figures, data, arrays | {"exact": exact}, {"largest": null}, panels)
