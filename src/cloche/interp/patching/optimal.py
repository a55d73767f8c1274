"""Constants that harm a model least in the place of a component (optimal ablation)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.interp.metrics import kl
from cloche.interp.patching.cells import Contrast, by_head, last_logits
from cloche.model import Context, Edit, Network, Site

STEPS = 40
RATE = 0.3  # of a step at first, in standard deviations of the component's values; it falls to 0
ROWS = 128  # of a batch, as in a sweep


@dataclass(frozen=True, eq=False)
class Constants:
    """values: by site, [cell, ...]; a cell is a head if the site has heads, else there is one. kl_mean and kl [layer, cell]:
    nats by which predictions after the fitted prompts move with the mean, and with the constant, in the component's place."""

    values: dict[Site, Tensor]
    kl_mean: Tensor
    kl: Tensor

    def edit(self, each: Site) -> Edit:
        """The ablation of a site, or of one head of it."""
        return each.mean(self.values[each.whole][each.head_index or 0])


def best_constants(net: Network, site: str, found: Sequence[Contrast]) -> Constants:
    """For each cell of a site the constant, at all positions, with the least KL(clean || ablated) of the next token, on average
    over the clean prompts of `found` (Li and Janson 2024, 2409.09951).

    Adam from the mean over prompts and positions, all cells as rows of one batch. Of its steps each cell keeps the best,
    which may be the mean.
    """
    sites = net.sites.resolve(f"{site}.all")
    runs = [net.run(contrast.clean, save=sites, logits=False) for contrast in found]
    mean, spread = {}, {}
    for each in sites:
        rows = torch.cat([run[each] for run in runs], 1)[0].float()  # [position, ...]
        rows = rows.movedim(each.axes.index("head") - 1, 1) if by_head(net, site) else rows[:, None]
        mean[each] = rows.mean(0)  # [cell, ...]
        deviation = (rows - mean[each]).square().flatten(2).mean((0, 2)).sqrt()
        spread[each] = deviation.view(-1, *[1] * (rows.ndim - 2))
    wanted = [last_logits(net, contrast.clean).float().log_softmax(-1) for contrast in found]
    steps = {
        each: torch.zeros_like(value).requires_grad_() for each, value in mean.items()
    }  # from the mean, in spreads
    adam = torch.optim.Adam(steps.values(), RATE, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 1 / STEPS, STEPS)
    best, history = dict(mean), list[Tensor]()
    for _ in range(STEPS + 1):
        with torch.enable_grad():
            values = {each: mean[each] + spread[each] * steps[each] for each in sites}
            losses, gradients = _losses(net, found, wanted, values, list(steps.values()))
        least = torch.stack(history).amin(0) if history else torch.full_like(losses, torch.inf)
        for each, better in zip(sites, losses < least, strict=True):
            best[each] = torch.where(better.view_as(spread[each]), values[each].detach(), best[each])
        history.append(losses)
        for step, gradient in zip(steps.values(), gradients, strict=True):
            step.grad = gradient
        adam.step()
        schedule.step()
    dtype = net.embed.weight.dtype
    return Constants(
        {each: value.to(dtype) for each, value in best.items()}, history[0].cpu(), torch.stack(history).amin(0).cpu()
    )


def _losses(
    net: Network, found: Sequence[Contrast], wanted: Sequence[Tensor], values: dict[Site, Tensor], steps: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Mean divergence [layer, cell] with the value of each cell in its place, and its gradient by `steps`."""
    cells = [(site, cell) for site, value in values.items() for cell in range(len(value))]
    losses = torch.zeros(len(cells), dtype=torch.float64, device=steps[0].device)
    total = [torch.zeros_like(step) for step in steps]
    for contrast, right in zip(found, wanted, strict=True):
        for start in range(0, len(cells), ROWS):
            record = _Constant(values, cells[start : start + ROWS])
            ids = contrast.clean.expand(len(record.cells), -1)
            logits = net.logits(ids, Context.over(ids, record=record), last=True)[:, -1].float().log_softmax(-1)
            divergence = kl(right, logits).double() / len(found)
            losses[start : start + ROWS] += divergence.detach()
            found_here = torch.autograd.grad(divergence.sum(), steps, retain_graph=True, allow_unused=True)
            total = [
                all_ if own is None else all_ + own for all_, own in zip(total, found_here, strict=True)
            ]  # a chunk may lack a site
    return losses.view(len(values), -1), total


class _Constant:
    """A recorder that puts a value in the place of one cell in each row of the batch."""

    def __init__(self, values: dict[Site, Tensor], cells: Sequence[tuple[Site, int]]) -> None:
        self.cells, self.values = cells, {(site.name, site.layer): value for site, value in values.items()}
        self.heads = {site.name: site.whole_axes.index("head") for site in values if "head" in site.whole_axes}

    def wants(self, name: str, layer: int | None) -> bool:
        return (name, layer) in self.values

    def __call__(self, name: str, layer: int | None, value: Tensor) -> Tensor:
        chosen = [
            (row, cell) for row, (site, cell) in enumerate(self.cells) if (site.name, site.layer) == (name, layer)
        ]
        if not chosen:
            return value
        rows, cells = torch.tensor(chosen, device=value.device).T
        axis = self.heads.get(name)
        by_cell = (
            value[:, None].clone() if axis is None else value.movedim(axis, 1).clone()
        )  # [row, cell, position, ...]
        by_cell[rows, cells] = self.values[name, layer][cells][:, None].to(value.dtype)
        return by_cell[:, 0] if axis is None else by_cell.movedim(1, axis)
