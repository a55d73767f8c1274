"""Selecting the largest pre-activations per signal or per batch without ever holding all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from cloche.sparse.saes.gathered import Choice

ROWS = 512  # signals scored at once: their scores stay in the cache of one core
GROUP = 8  # features compared as one before the exact selection; 8 measured fastest from 2,048 to 16,384 features
_SAFE = 0.9  # times the last batch's threshold: nearly always below this batch's


@torch.no_grad()
def select_topk(x: Tensor, weight: Tensor, bias: Tensor, k: int) -> Choice:
    """The k largest of x @ weight.T + bias of each signal, in no particular order.

    `x` [n, d], `weight` [N, d], `bias` [N]. Memory beside the result: 512 * N numbers.
    """
    indices = torch.empty(len(x), k, dtype=torch.int64, device=x.device)
    values = x.new_empty(len(x), k)
    for rows, block in scored(x, weight, bias):
        values[rows], indices[rows] = _topk(block, k)
    return Choice.equal(indices, values, len(weight))


@torch.no_grad()
def select_batch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    total: int,
    guess: float = 0.0,
    gather: Callable[[Tensor], Tensor] = lambda values: values,
) -> tuple[Choice, float]:
    """The `total` largest positive entries of x @ weight.T + bias over all signals, and the least of them.

    `guess`, roughly the expected least, saves work and does not change the result. `gather` joins the candidates of
    several processes, so that `total` counts over all of them. With fewer positive entries than `total`, all are taken.
    """
    low = max(0.0, _SAFE * guess)
    choice = above(x, weight, bias, low)
    everywhere = gather(choice.pre)
    if low > 0 and len(everywhere) < total:
        low = 0.0
        choice = above(x, weight, bias, low)
        everywhere = gather(choice.pre)
    if len(everywhere) <= total:
        return choice, low
    least = everywhere.kthvalue(len(everywhere) - total + 1).values
    return choice.within(choice.pre >= least), float(least)


@torch.no_grad()
def above(x: Tensor, weight: Tensor, bias: Tensor, low: Tensor | float) -> Choice:
    """All entries of x @ weight.T + bias above `low` (a number, or one per feature)."""
    features = len(weight)
    found, kept = [], []
    counts = torch.zeros(len(x) + 1, dtype=torch.int64, device=x.device)
    for rows, block in scored(x, weight, bias):
        places = (block > low).view(-1).nonzero().squeeze(1)
        kept.append(block.view(-1)[places])
        signals = torch.div(places, features, rounding_mode="floor")
        found.append(places - signals * features)
        counts[rows.start + 1 : rows.stop + 1] = torch.bincount(signals, minlength=len(block))
    indices = torch.cat(found) if found else counts[:0]
    return Choice(indices, counts.cumsum(0), features, torch.cat(kept) if kept else x.new_zeros(0))


def scored(x: Tensor, weight: Tensor, bias: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(rows, x[rows] @ weight.T + bias), one block of rows at a time, each overwriting the last."""
    scores = x.new_empty(min(ROWS, len(x)), len(weight))
    for start in range(0, len(x), ROWS):
        rows = slice(start, min(start + ROWS, len(x)))
        block = scores[: rows.stop - start]
        torch.addmm(bias, x[rows], weight.T, out=block)
        yield rows, block


def _topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and indices [n, k] of the k largest scores of each row.

    A row's k largest scores lie in the k groups whose maxima are largest (every other group is exceeded by k of them), so only
    those groups are searched: about half the time of a plain topk on a CPU.
    """
    n, features = scores.shape
    groups = features // GROUP
    if groups * GROUP != features or groups < 2 * k or scores.is_cuda:
        best = scores.topk(k, dim=1, sorted=False)
        return best.values, best.indices
    maxima = scores.view(n, GROUP, groups).amax(1)  # group g holds features g, g + groups, g + 2 * groups, ...
    chosen = maxima.topk(k, dim=1, sorted=False).indices
    members = torch.arange(GROUP, device=scores.device)[:, None] * groups
    candidates = (chosen[:, None, :] + members).reshape(n, -1)
    best = scores.gather(1, candidates).topk(k, dim=1, sorted=False)
    return best.values, candidates.gather(1, best.indices)
