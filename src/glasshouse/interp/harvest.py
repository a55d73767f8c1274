"""Activations of one site over many tokens, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from glasshouse.errors import GlasshouseError
from glasshouse.model import Network, Site

FIRST = 1  # positions left out at the start of a window: without context, they are like no others


@torch.no_grad()
def activations(net: Network, windows: Iterable[Any], site: Site | str) -> Iterator[tuple[Tensor, Tensor]]:
    """(ids [batch, position], activations [batch, position, width]) of `site`, batch by batch, in order, in fp32.

    `windows` are batches of token ids. Layers after the site are not run.
    """
    place = net.sites.resolve(site)[0]
    if len(place.axes) != 3:
        raise GlasshouseError(
            f"{place} has axes {', '.join(place.axes)}; a dictionary is made of vectors, one a position: choose one head of it "
            "or a site such as resid_post[1]."
        )
    device = net.embed.weight.device
    for window in windows:
        ids = torch.as_tensor(window, device=device)
        yield ids.reshape(-1, ids.shape[-1]), net.run(ids, save=[place], logits=False)[place].float()


def harvest(
    net: Network, windows: Iterable[Any], site: Site | str, buffer: int = 65_536, seed: int = 0
) -> Iterator[Tensor]:
    """Shuffled activations [n, width] of `site`: what `train_sae` reads. Holds at most `buffer` of them and one batch.

    The first position of every window is left out. Neighbouring tokens come out far apart: a full buffer gives a random half of
    itself away before it takes more. The same windows and seed give the same stream.
    """
    if buffer < 2:
        raise GlasshouseError(f"buffer={buffer} cannot shuffle anything; hold at least 2 activations.")
    rng = torch.Generator().manual_seed(seed)
    held: list[Tensor] = []
    count = 0
    for _, values in activations(net, windows, site):
        rows = values[:, FIRST:].flatten(0, 1).cpu()
        while len(rows):
            taken, rows = rows[: buffer - count], rows[buffer - count :]
            held.append(taken)
            count += len(taken)
            if count == buffer:
                shuffled = torch.cat(held)[torch.randperm(count, generator=rng)]
                yield shuffled[: buffer // 2]
                held, count = [shuffled[buffer // 2 :]], buffer - buffer // 2
    if count:
        yield torch.cat(held)[torch.randperm(count, generator=rng)]
