"""Divergence between the model's predictions and a lens's, in chunks: no more than CELLS logits are in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from cloche.interp.lenses.affine import Affine, stream_sites
from cloche.model import Network

CELLS = 1 << 21  # logits in memory at a time, for each of a few copies


@torch.no_grad()
def streams(net: Network, ids: Tensor) -> Tensor:
    """The residual stream [site, row, width] at all positions of ids [batch, position], in fp32."""
    sites = stream_sites(net)
    result = net.run(ids.to(net.embed.weight.device), save=sites, logits=False)
    return torch.stack([result[site].flatten(0, 1).float() for site in sites])


def log_predictions(net: Network, h: Tensor) -> Tensor:
    """Log-probabilities [row, vocab] of the stream h [row, width] as the model's end reads it."""
    logits: Tensor = net.unembed(net.final_norm(h.to(net.embed.weight.dtype)))
    return logits.float().log_softmax(-1)


def chunks(net: Network, last: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(rows, the model's log-probabilities at them [row, vocab]) of the stream after the last layer [row, width]."""
    size = max(1, CELLS // net.spec.vocab)
    for start in range(0, len(last), size):
        rows = slice(start, start + size)
        with torch.no_grad():
            yield rows, log_predictions(net, last[rows])


@torch.no_grad()
def divergences(net: Network, last: Tensor, mapped: Tensor, same: Tensor | None = None) -> Tensor:
    """KL(model || lens) in nats [layer, row]; last [row, width], mapped [layer, row, width]. `same` [layer, row] is filled with
    whether the lens predicts the same token as the model, as 0 or 1."""
    kl = mapped.new_empty(mapped.shape[:2])
    for rows, own in chunks(net, last):
        p, best = own.exp(), own.argmax(-1) if same is not None else own
        for layer, h in enumerate(mapped[:, rows]):
            q = log_predictions(net, h)
            kl[layer, rows] = (p * (own - q)).sum(-1)
            if same is not None:
                same[layer, rows] = q.argmax(-1).eq(best).to(same)
    return kl


def slopes(net: Network, last: Tensor, mapped: Tensor) -> Tensor:
    """Gradient of each row's KL(model || lens) to `mapped`, [layer, row, width]."""
    found = torch.empty_like(mapped)
    for rows, own in chunks(net, last):
        p = own.exp()
        for layer in range(len(mapped)):
            h = mapped[layer, rows].detach().requires_grad_(True)
            with torch.enable_grad():
                logits: Tensor = net.unembed(net.final_norm(h.to(net.embed.weight.dtype)))
            change = logits.detach().float().softmax(-1).sub_(p)  # of the divergence with the logits
            (found[layer, rows],) = torch.autograd.grad(logits, h, change.to(logits.dtype))
    return found


def mean_divergences(net: Network, h: Tensor, last: Tensor, maps: Mapping[str, Affine]) -> dict[str, Tensor]:
    """Mean KL(model || lens) per layer, [layer] in float64, for each of several maps of h [layer, row, width]."""
    return {
        name: divergences(net, last, each(h)).sum(1, dtype=torch.float64) / max(1, len(last))
        for name, each in maps.items()
    }
