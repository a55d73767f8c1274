"""Which k features answer most strongly to each signal, without ever holding all the answers."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 512  # signals scored at once: their scores stay in the cache of one core
GROUP = 8  # features compared as one before the exact choice; 8 measured fastest from 2,048 to 16,384 features


@torch.no_grad()
def select_topk(x: Tensor, weight: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Indices and values [n, k] of the k largest of x @ weight.T + bias, in no particular order.

    `x` [n, d], `weight` [N, d], `bias` [N]. Memory beyond the answer: 512 * N numbers.
    """
    n, features = x.shape[0], weight.shape[0]
    indices = torch.empty(n, k, dtype=torch.int64, device=x.device)
    values = x.new_empty(n, k)
    scores = x.new_empty(min(ROWS, n), features)
    for start in range(0, n, ROWS):
        rows = slice(start, min(start + ROWS, n))
        block = scores[: rows.stop - start]
        torch.addmm(bias, x[rows], weight.T, out=block)
        values[rows], indices[rows] = _topk(block, k)
    return indices, values


def _topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and indices [n, k] of the k largest scores of each row.

    A row's k largest scores lie in the k groups whose maxima are largest (a group left out is beaten by k others), so only
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
