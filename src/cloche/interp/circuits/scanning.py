"""The attention of heads in one pass, a block of the pattern's rows at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from cloche.errors import InstrumentOption, ModelUnsupported, shown
from cloche.model import Context, Network

ROWS = 64  # queries of a pattern that exist at a time
Head = tuple[int, int]  # layer, head
Take = Callable[[int, Any, list[Tensor]], None]  # layer, its mixer, the values of its `pattern_reads`


class _Reader:
    """A recorder that hands on what a layer's pattern is computed from as soon as it is complete, and keeps none of it."""

    def __init__(self, net: Network, layers: Sequence[int], take: Take) -> None:
        self.mixers = {layer: net.layers[layer].mix for layer in layers}
        self.take = take
        self.pending: dict[str, Tensor] = {}

    def wants(self, name: str, layer: int | None) -> bool:
        return layer in self.mixers and name in self.mixers[layer].pattern_reads

    def __call__(self, name: str, layer: int | None, value: Tensor) -> Tensor:
        if layer is not None and self.wants(name, layer):
            self.pending[name] = value
            reads = self.mixers[layer].pattern_reads
            if len(self.pending) == len(reads):
                self.take(layer, self.mixers[layer], [self.pending[each] for each in reads])
                self.pending = {}
        return value


def read_layers(net: Network, ids: Tensor, layers: Sequence[int], take: Take, logits: bool = True) -> Tensor:
    """One pass over ids [batch, position] that calls `take` for each of `layers`; returns the logits, or without them the
    stream after the last of the layers."""
    context = Context.over(ids, record=_Reader(net, layers, take))
    return net.logits(ids, context) if logits else net.run_layers(ids, context, stop=max(layers, default=-1) + 1)


def blocks_of_rows(mix: Any, reads: list[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """A layer's pattern in blocks: row positions [row], pattern [batch, head, row, choice], choices of each row [row]."""
    count = reads[0].shape[1]
    for start in range(0, count, ROWS):
        rows = torch.arange(start, min(start + ROWS, count), device=reads[0].device)
        yield rows, *mix.pattern_rows(rows, *reads)


def layers_with_patterns(net: Network) -> list[int]:
    """The layers whose mixer has an attention pattern. Raises ModelUnsupported if there is none."""
    layers = [i for i, block in enumerate(net.layers) if getattr(block.mix, "pattern_reads", ())]
    if not layers:
        raise ModelUnsupported("No layer of this model has an attention pattern, so there are no heads to look at.")
    return layers


def name_of(head: Head) -> str:
    return f"layer {head[0]} head {head[1]}"


def read_heads(net: Network, heads: Sequence[Any]) -> list[Head]:
    """Heads from texts such as "1.0" (layer 1, head 0), or pairs (layer, head). Raises InstrumentOption for one that the
    model does not have."""
    layers = layers_with_patterns(net)
    each = heads.split(",") if isinstance(heads, str) else list(heads)
    return list(dict.fromkeys(_head(net, layers, one) for one in each))


def _head(net: Network, layers: list[int], text: Any) -> Head:
    match = re.fullmatch(r"\s*[Ll]?(\d{1,6})[.Hh](\d{1,6})\s*", text) if isinstance(text, str) else None
    pair = match.groups() if match else text
    if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(i, int | str) for i in pair)):
        raise InstrumentOption(
            f"heads={shown(text)} does not name a head; write LAYER.HEAD as text, such as '1.0' for head 0 of layer 1."
        )
    layer, head = map(int, pair)
    if layer not in layers:
        known = f"{layers[0]} to {layers[-1]}" if layers == list(range(layers[0], layers[-1] + 1)) else str(layers)
        raise InstrumentOption(f"heads={shown(text)}: the layers of this model with heads are {known}, not {layer}.")
    if not 0 <= head < (count := net.layers[layer].mix.heads):
        raise InstrumentOption(f"heads={shown(text)}: layer {layer} has heads 0 to {count - 1}, not {head}.")
    return layer, head
