"""What neurons write, as the head reads it."""

from __future__ import annotations

import torch
from torch import Tensor

from cloche.interp.circuits.weights import unembedding
from cloche.model import Network

NEURONS = 256  # whose effects on the whole vocabulary exist at a time


@torch.no_grad()
def neuron_kurtosis(net: Network) -> list[float]:
    """Median over the neurons of each layer of the kurtosis of their effect on the logits, W_U W_out with the final norm's gain
    (3 if Gaussian); empty if a layer has no neurons that a matrix writes into the stream, or the head is not linear."""
    head = unembedding(net)
    if head is None or not all(
        "mlp_act" in getattr(block.map, "declared_sites", {}) and hasattr(block.map, "outer") for block in net.layers
    ):
        return []
    return [float(kurtosis(block.map.outer.weight.float(), head).median()) for block in net.layers]


def kurtosis(written: Tensor, head: Tensor) -> Tensor:
    """Of each column of `written` [width, neuron], the kurtosis over the vocabulary of `head` [vocab, width] times it."""
    found = []
    for part in written.split(NEURONS, 1):
        effects = head @ part
        effects = effects - effects.mean(0)
        variance = effects.square().mean(0).clamp(min=torch.finfo(torch.float32).tiny)
        found.append(effects.pow(4).mean(0) / variance.square())
    return torch.cat(found)
