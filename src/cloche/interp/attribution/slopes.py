"""Gradients of a metric at sites of many pairs of prompts, from one pass over each side and one backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.errors import InstrumentOption
from cloche.interp.attribution.frozen import FrozenModel
from cloche.interp.metrics import Metric
from cloche.interp.patching.cells import Contrast
from cloche.interp.patching.patch import Direction, check_apart
from cloche.model import Context, Network, Site
from cloche.model.sites import Keeping

Values = dict[Site, Tensor]


@dataclass(frozen=True, eq=False)
class Slopes:
    """Pairs whose prompts have one length. base, source, gradient: a site's values in the prompt that is patched, in the other
    one, and the gradient of the metric at the first, each [pair, ...]. start, ends [pair]: the metric of the prompt that is
    patched, and that of the clean prompt minus that of the corrupted one."""

    contrasts: Sequence[Contrast]
    base: Values
    source: Values
    gradient: Values
    start: Tensor
    ends: Tensor
    sign: float

    def change(self, site: Site) -> Tensor:
        """What patching changes at a site, [pair, ...], in double precision."""
        return self.source[site].double() - self.base[site].double()

    def first_order(self, site: Site) -> Tensor:
        """What the change of each number adds to the metric to first order, [pair, ...], in double precision."""
        return self.change(site) * self.gradient[site].double()

    def share(self, added: Tensor) -> Tensor:
        """Effects, on the scale of activation patching, of what is added to the metric [pair, ...]."""
        return self.sign * added / self.ends.view(-1, *[1] * (added.ndim - 1))


def slopes(
    net: Network,
    found: Sequence[Contrast],
    sites: Sequence[Site],
    metric: Metric,
    direction: Direction,
    linear: bool = False,
) -> Iterator[tuple[list[int], Slopes]]:
    """The pairs of each length with their numbers. linear: gradients of the frozen linear model (RelP), not of the network.

    Raises InstrumentOption for a metric without a gradient, ArgumentInvalid where it is the same on both prompts of a pair.
    """
    lengths = [contrast.clean.shape[1] for contrast in found]
    for length in dict.fromkeys(lengths):
        own = [i for i, each in enumerate(lengths) if each == length]
        yield own, _slopes(net, [found[i] for i in own], sites, metric, direction, linear)


def _slopes(
    net: Network, found: list[Contrast], sites: Sequence[Site], metric: Metric, direction: Direction, linear: bool
) -> Slopes:
    clean, corrupted = (torch.cat([getattr(pair, name) for pair in found]) for name in ("clean", "corrupted"))
    base, other = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
    with torch.no_grad():
        source, theirs = _pass(net, other, sites)

    def read(last: Tensor, mine: Tensor) -> Tensor:
        """The metric [pair] of logits [pair, vocab], if those of the base prompts are `mine`."""
        right = theirs if direction == "denoise" else mine.detach()
        rows = zip(last, found, right, strict=True)
        return torch.stack([metric.read(row, pair.answer, pair.against, clean) for row, pair, clean in rows])

    with torch.enable_grad():
        if linear:
            frozen = FrozenModel.over(net, base, save=sites)
            final = frozen.saved["final_norm"].clone().requires_grad_()
            mine = net.unembed(final[:, -1])
            (rows,) = gradients_of(metric, read(mine, mine), [final])
            values = {site: frozen.saved[site] for site in sites}
            gradient = {site: each[0] for site, each in frozen.adjoint({"final_norm": rows[None]}, sites).items()}
        else:
            values, mine = _pass(net, base, sites)
            gradient = dict(zip(sites, gradients_of(metric, read(mine, mine), list(values.values())), strict=True))
    mine = mine.detach()
    ends = (theirs, mine) if direction == "denoise" else (mine, theirs)
    right, wrong = (read(last, mine).double() for last in ends)
    for pair in zip(right.tolist(), wrong.tolist(), strict=True):
        check_apart(metric, *pair)
    values = {site: value.detach() for site, value in values.items()}
    start, sign = (wrong, 1.0) if direction == "denoise" else (right, -1.0)
    return Slopes(found, values, source, gradient, start, right - wrong, sign)


def gradients_of(metric: Metric, read: Tensor, values: list[Tensor]) -> list[Tensor]:
    """The gradient of each pair's metric; 0 for what its logits do not depend on."""
    if not read.requires_grad:
        raise InstrumentOption(f"The {metric} has no gradient; choose another metric, such as LogitDifference.")
    found = torch.autograd.grad(read.sum(), values, allow_unused=True)
    return [torch.zeros_like(value) if each is None else each for value, each in zip(values, found, strict=True)]


def _pass(net: Network, ids: Tensor, sites: Sequence[Site]) -> tuple[Values, Tensor]:
    """The values of sites in a pass over ids, and the logits after the last token [batch, vocab]."""
    record = _FromEmbeddings({site.name for site in sites})
    logits = net.logits(ids, Context.over(ids, record=record), last=True)[:, -1]
    return {site: record.kept[site.name, site.layer] for site in sites}, logits


class _FromEmbeddings(Keeping):
    """The graph begins at the embeddings, so that it exists also where no weight has a gradient."""

    def __call__(self, name: str, layer: int | None, value: Tensor) -> Tensor:
        if name == "embed" and torch.is_grad_enabled():
            value = value.detach().requires_grad_()
        return super().__call__(name, layer, value)
