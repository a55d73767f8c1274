"""The signal of a network at the step it began from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.diagnose.doctor.signal import measure
from cloche.model import Network

STEADY = 0.02  # coefficient of variation of the RMS over positions, below which something is normalised


@dataclass(frozen=True)
class Start:
    """The signal at the first checkpoint. entropy: of attention, as a share of its maximum, in the layer that has least.
    normed: the share of layers whose branches read or write normalised values. scores: by what the scores of attention are
    multiplied, in units of 1 / sqrt(head size)."""

    entropy: float | None
    normed: float
    scores: float


def start_of(net: Network, ids: Tensor) -> Start:
    """Measured on ids [row, position + 1]."""
    entropies = [layer.entropy for layer in measure(net, ids).layers if layer.entropy is not None]
    return Start(min(entropies, default=None), normed_share(net, ids), score_scale(net))


@torch.no_grad()
def normed_share(net: Network, ids: Tensor) -> float:
    """The share of layers with a norm before or after each branch: its RMS is the same at all positions.

    Measured rather than read from the names of modules, so that it holds for any part.
    """
    sites = net.sites
    values = net.run(ids[:, :-1], save=[*sites.attn_in, *sites.attn_out, *sites.mlp_in, *sites.mlp_out])
    found = []
    for i in range(len(net.layers)):
        pairs = [(sites.attn_in[i], sites.attn_out[i]), (sites.mlp_in[i], sites.mlp_out[i])]
        found.append(all(min(_variation(values[site]) for site in pair) < STEADY for pair in pairs))
    return sum(found) / len(found)


def _variation(x: Tensor) -> float:
    """The coefficient of variation over positions of the deviation of x [row, position, width]."""
    size = x.float().std(-1, correction=0)
    rms = x.float().square().mean(-1).sqrt()
    return min(float(each.std() / each.mean().clamp_min(1e-30)) for each in (size, rms))


@torch.no_grad()
def score_scale(net: Network) -> float:
    """The largest factor of attention scores in any layer over that of a usual start: of q k^T, in units of 1 / sqrt(head
    size), times how much larger than nominal the weights of queries and keys are."""
    found, declared = [0.0], net.declarations()
    for block in net.layers:
        scale, size = getattr(block.mix, "scale", None), getattr(block.mix, "size", None)
        factor = scale * size**0.5 if isinstance(scale, float) and isinstance(size, int) else 1.0
        qkv = getattr(block.mix, "qkv", None)
        if qkv is not None and getattr(block.mix, "q_norm", None) is None:
            rule = declared[next(name for name, p in net.named_parameters() if p is qkv.weight)]
            sizes = list(rule.blocks.values()) or [len(qkv.weight)]
            rms = [float(rows.float().square().mean().sqrt()) for rows in qkv.weight.split(sizes)[:2]]
            factor *= rms[0] * rms[-1] / rule.std**2 if rule.std else 1.0
        found.append(factor)
    return max(found) or 1.0
