"""What a dictionary keeps of the model: its loss when the reconstruction takes the activations' place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from glasshouse.errors import GlasshouseError
from glasshouse.interp.features import site_of
from glasshouse.interp.harvest import FIRST
from glasshouse.interp.subject import Subject
from glasshouse.sparse import SAE


@dataclass(frozen=True)
class Recovered:
    """Cross-entropies in nats a token: of the model, with the reconstruction put back, and with the mean there instead."""

    tokens: int
    clean: float
    spliced: float
    ablated: float
    kl: float  # from the model's predictions to those with the reconstruction, nats a token

    @property
    def share(self) -> float:
        """Share of the loss that mean ablation costs which the reconstruction gives back: 1 is all of it. NaN where the mean
        costs nothing."""
        cost = self.ablated - self.clean
        return (self.ablated - self.spliced) / cost if cost > 0 else float("nan")

    def __str__(self) -> str:
        return (
            f"Put back over {self.tokens:,} tokens, the reconstruction has a cross-entropy of {self.spliced:.4f} nats (the "
            f"model {self.clean:.4f}, the mean {self.ablated:.4f}): {self.share:.1%} recovered, KL {self.kl:.4f}."
        )


@torch.no_grad()
def loss_recovered(subject: Subject, sae: SAE, windows: Iterable[Any]) -> Recovered:
    """Runs `windows` (batches of ids [batch, position]) three times. The first position, which dictionaries do not see, is
    left as it is and not counted. Raises where the dictionary is of another site or width, or there is nothing to predict."""
    site = subject.net.sites.resolve(site_of(subject, sae))[0]
    sums, tokens = torch.zeros(4, dtype=torch.float64), 0

    def predictions(change: Callable[[Tensor], Tensor] | None) -> Tensor:
        edits = () if change is None else (site.apply(lambda value: _changed(value, change)),)
        return subject.net.run(ids, edits=edits).logits[:, FIRST:-1].float().log_softmax(-1)

    def spliced(rows: Tensor) -> Tensor:
        return sae.decode(sae.encode(rows.cpu())).to(rows.device)

    for window in windows:
        ids = torch.as_tensor(window, device=subject.net.embed.weight.device)
        ids = ids.reshape(-1, ids.shape[-1])
        targets = ids[:, FIRST + 1 :].flatten()
        clean, back, mean = (predictions(f) for f in (None, spliced, lambda rows: rows.mean(0).expand_as(rows)))
        for i, log in enumerate((clean, back, mean)):
            sums[i] += float(F.nll_loss(log.flatten(0, 1), targets, reduction="sum"))
        sums[3] += float((clean.exp() * (clean - back)).sum())
        tokens += len(targets)
    if not tokens:
        raise GlasshouseError("There is no text to predict: give at least one window of three tokens.")
    return Recovered(tokens, *(sums / tokens).tolist())


def _changed(value: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    rows = value[:, FIRST:]
    value[:, FIRST:] = change(rows.flatten(0, 1).float()).view_as(rows).to(value.dtype)
    return value
