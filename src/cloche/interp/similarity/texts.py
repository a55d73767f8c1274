"""What two models predict on the same text: losses token by token, activations and lenses layer by layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.interp.lenses.divergence import chunks, log_predictions
from cloche.interp.metrics import kl
from cloche.model import Network, Site

LENS_ROWS = 2048  # tokens at which the lenses are compared


@dataclass(frozen=True, eq=False)
class TextChanges:
    """ids: each window [position]. loss: nats of the model and of the other at each token but the first of each window
    [2, position]. distance: of each site, the root mean square of the difference over that of the model's own values.
    lens: of each site but the last, KL in nats between the two models' logit lenses; empty if the sites' widths differ."""

    ids: list[Tensor]
    loss: list[Tensor]
    sites: list[str]
    distance: list[float]
    lens: list[float]


@torch.no_grad()
def text_changes(a: Network, b: Network, batches: Iterable[Tensor]) -> TextChanges:
    """One pass of each model over the batches [batch, position]."""
    alike = a.spec.width == b.spec.width and len(a.layers) == len(b.layers)
    sites: list[Site] = [a.sites.embed, *a.sites.resid_post.all] if alike else []
    ids, losses = list[Tensor](), list[Tensor]()
    squares, lens = torch.zeros(len(sites), 2, dtype=torch.float64), torch.zeros(len(sites), dtype=torch.float64)
    read = 0
    for batch in batches:
        one, two = (net.run(batch.to(net.embed.weight.device), save=sites) for net in (a, b))
        losses += torch.stack([_losses(each.logits, batch) for each in (one, two)], 1).unbind(0)
        ids += batch.unbind(0)
        for i, site in enumerate(sites):
            x, y = one[site][:, 1:].double(), two[site][:, 1:].double().to(one[site].device)
            squares[i] += torch.stack([(y - x).square().sum(), x.square().sum()]).cpu()
        rows = min(LENS_ROWS - read, batch[:, 1:].numel())
        for i, site in enumerate(sites if rows > 0 else []):
            h, g = (result[site][:, 1:].flatten(0, 1)[:rows].float() for result in (one, two))
            lens[i] += _divergence(a, b, h, g)
        read += max(rows, 0)
    distance = (squares[:, 0] / squares[:, 1].clamp(min=1e-300)).sqrt().tolist()
    return TextChanges(ids, losses, [str(site) for site in sites], distance, (lens / max(read, 1)).tolist())


def _losses(logits: Tensor, ids: Tensor) -> Tensor:
    """Nats at every token but the first, [batch, position - 1]."""
    target = ids[:, 1:].to(logits.device)
    found = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), target.flatten(), reduction="none")
    return found.view(target.shape).cpu()


def _divergence(a: Network, b: Network, h: Tensor, g: Tensor) -> float:
    """The sum over rows of KL(a's reading of h || b's reading of g)."""
    total = 0.0
    for rows, own in chunks(a, h):
        total += float(kl(own, log_predictions(b, g[rows]).to(own.device)).sum(dtype=torch.float64))
    return total
