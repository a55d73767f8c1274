"""What a model's predictions lose when a direction is projected out of a site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.errors import SiteUnsuitable
from cloche.interp.metrics import kl
from cloche.interp.route import FIRST
from cloche.model import Network, Site

WINDOWS = 8
RANDOM = 5


@dataclass(frozen=True)
class Removed:
    """Mean KL in nats per token from the predictions to those without the direction: over all tokens, over those with the label
    and over those without; and the same for random directions."""

    kl: float
    kl_true: float
    kl_false: float
    random: float
    random_true: float
    random_false: float


@torch.no_grad()
def removed(
    net: Network, ids: Sequence[Tensor], labels: Sequence[Tensor], site: Site, direction: Tensor, seed: int
) -> Removed:
    """Over the first windows ids [position], with labels [position - 1] of all tokens but the first."""
    if direction.numel() < 2:
        raise SiteUnsuitable(
            f"{site} has one number per token, so no direction of it can be removed; name a site such as resid_post."
        )
    if not bool(direction.any()):  # of a site that does not vary
        return Removed(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    draw = torch.Generator().manual_seed(seed)
    random = [torch.randn(direction.shape, generator=draw) for _ in range(RANDOM)]
    found, chosen = [], []
    for row, label in list(zip(ids, labels, strict=True))[:WINDOWS]:
        row = row[None].to(net.embed.weight.device)
        clean = net.run(row).logits[0, FIRST:].float().log_softmax(-1)

        def read(logits: Tensor, clean: Tensor = clean) -> Tensor:
            other = logits[0, FIRST:].float().log_softmax(-1)
            return kl(clean, other)

        edits = [site.project_out(each.float()) for each in (direction, *random)]
        found.append(net.sweep(row, edits, read).double().cpu())  # [direction, position]
        chosen.append(label)
    values, truth = torch.cat(found, 1), torch.cat(chosen)

    def mean(values: Tensor, where: Tensor) -> float:
        return float(values[..., where].mean()) if bool(where.any()) else 0.0

    every = torch.ones_like(truth)
    own = [mean(values[0], where) for where in (every, truth, ~truth)]
    other = [mean(values[1:], where) for where in (every, truth, ~truth)]
    return Removed(own[0], own[1], own[2], other[0], other[1], other[2])
