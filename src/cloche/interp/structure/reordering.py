"""A model without one of its layers, or with two in the other order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cloche.interp.lenses.divergence import chunks, log_predictions
from cloche.interp.metrics import kl
from cloche.model import Context, Network


@torch.no_grad()
def reordered_divergences(net: Network, batches: Sequence[Tensor]) -> tuple[list[float], list[float]]:
    """Mean KL in nats from the model's predictions to those without each iteration of the body, and to those with each
    iteration and the next in the other order (0 for the last)."""
    depth = len(net.layers)
    without, swapped, count = torch.zeros(depth, dtype=torch.float64), torch.zeros(depth, dtype=torch.float64), 0
    for ids in batches:
        context = Context.over(ids)
        starts = [net.run_layers(ids, context, stop=0)]  # the stream before each iteration, and after the last
        for i in range(depth):
            starts.append(net.body(starts[-1], context, None, i, i + 1)[0])
        last = starts[-1].flatten(0, 1)
        count += len(last)
        for i in range(depth):
            without[i] += _divergence(net, last, _after(net, starts[i], context, range(i + 1, depth)))
            if i + 1 < depth:
                order = [i + 1, i, *range(i + 2, depth)]
                swapped[i] += _divergence(net, last, _after(net, starts[i], context, order))
    return (without / count).tolist(), (swapped / count).tolist()


def _after(net: Network, x: Tensor, context: Context, iterations: Sequence[int]) -> Tensor:
    for i in iterations:
        x, _ = net.body(x, context, None, i, i + 1)
    return x.flatten(0, 1)


def _divergence(net: Network, last: Tensor, other: Tensor) -> float:
    """The sum over rows of KL(predictions of `last` || those of `other`)."""
    total = 0.0
    for rows, own in chunks(net, last):
        total += float(kl(own, log_predictions(net, other[rows])).sum(dtype=torch.float64))
    return total
