"""Divergence between the model's predictions and a lens's, in chunks: no more than CELLS logits are in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

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
def divergences(net: Network, last: Tensor, mapped: Tensor) -> Tensor:
    """KL(model || lens) in nats [layer, row]; last [row, width], mapped [layer, row, width]."""
    return compared(net, last, mapped)[0]


@torch.no_grad()
def compared(net: Network, last: Tensor, mapped: Tensor) -> tuple[Tensor, Tensor]:
    """`divergences`, and whether the lens predicts the same token as the model, as 0 or 1 [layer, row]."""
    kl, same = mapped.new_empty(mapped.shape[:2]), mapped.new_empty(mapped.shape[:2])
    for rows, own in chunks(net, last):
        p, best = own.exp(), own.argmax(-1)
        for layer, h in enumerate(mapped[:, rows]):
            q = log_predictions(net, h)
            kl[layer, rows] = (p * (own - q)).sum(-1)
            same[layer, rows] = (q.argmax(-1) == best).to(same)
    return kl, same


def slopes(net: Network, last: Tensor, mapped: Tensor, rng: torch.Generator | None = None) -> Tensor:
    """Gradient of each row's KL(model || lens) to `mapped`, [layer, row, width].

    With `rng`, instead that of -log q(token) for a token drawn from the lens's own prediction q; the mean of its outer
    products is the Fisher information (as in K-FAC, 1503.05671).
    """
    found = torch.empty_like(mapped)
    for rows, own in chunks(net, last):
        p = own.exp()
        for layer in range(len(mapped)):
            h = mapped[layer, rows].detach().requires_grad_(True)
            with torch.enable_grad():
                q = log_predictions(net, h)
                if rng is None:
                    loss = -(p * q).sum()
                else:
                    drawn = torch.multinomial(q.detach().exp().cpu(), 1, generator=rng).to(q.device)
                    loss = -q.gather(1, drawn).sum()
                (found[layer, rows],) = torch.autograd.grad(loss, h)
    return found


def mean_divergences(
    net: Network, batches: Iterable[Tensor], maps: Mapping[str, Affine], order: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Mean KL(model || lens) per layer, [layer] in float64, for each of several maps; `order` permutes the targets."""
    totals: dict[str, Tensor] = {}
    count = 0
    for ids in batches:
        h = streams(net, ids)
        last, count = order(h[-1]), count + h.shape[1]
        for name, each in maps.items():
            found = divergences(net, last, each(h[:-1])).sum(1, dtype=torch.float64)
            totals[name] = totals[name] + found if name in totals else found
    return {name: total / count for name, total in totals.items()}
