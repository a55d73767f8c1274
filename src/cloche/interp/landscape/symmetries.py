"""Which units of a network may change places without changing what it computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cloche.model import (
    GLU,
    MLP,
    AllHeads,
    Attention,
    ClampedGLU,
    LayerNorm,
    Learned,
    MoE,
    Network,
    NoNorm,
    NoPosition,
    RMSNorm,
    RoPE,
    ScoredAttention,
    Stack,
    Unembed,
    ZeroCenteredRMSNorm,
    hidden_layers,
)

BY_ENTRY = (RMSNorm, ZeroCenteredRMSNorm, LayerNorm, NoNorm, type(None))  # norms that do not know their entries' order
HIDDEN = (MLP, GLU, ClampedGLU)
NORMS = ("mix_norm", "map_norm", "mix_post", "map_post", "final_norm")
READING = ("embed.weight", "unembed.weight", "position.weight", "qkv.weight", "inner.weight", "router.weight")
WRITING = ("out.weight", "out.bias", "outer.weight", "outer.bias")
APART = ("qkv.bias", "inner.bias", "router.bias", "unembed.bias", "sinks")  # parameters without an axis of the stream


@dataclass(frozen=True)
class Axis:
    """The units along one axis of a parameter: unit u has the entries start + u * span, ..., + span - 1 of each block."""

    parameter: str
    dim: int
    starts: tuple[int, ...] = (0,)
    span: int = 1

    def entries(self, order: Tensor) -> Tensor:
        """[unit, block, span]: where the entries of the units are, in this order."""
        starts = torch.tensor(self.starts)[None, :, None]
        return starts + order[:, None, None] * self.span + torch.arange(self.span)

    def units(self, weight: Tensor, size: int) -> Tensor:
        """[unit, number]: the entries of each unit."""
        index = self.entries(torch.arange(size)).to(weight.device)
        return weight.movedim(self.dim, 0)[index].reshape(size, -1)

    def reordered(self, weight: Tensor, order: Tensor) -> Tensor:
        """The parameter with the entries of unit order[u] in the place of u's."""
        index = torch.arange(weight.shape[self.dim])
        index[self.entries(torch.arange(len(order)))] = self.entries(order)
        return weight.index_select(self.dim, index.to(weight.device))


@dataclass(frozen=True)
class Units:
    """Units that may change places: neurons of a hidden layer, heads of a layer, or entries of the residual stream.

    groups: query heads stay with those that read the same keys, and such groups change places as wholes; `shared` are the
    axes of the keys and values, of one unit per group.
    """

    name: str
    layer: int | None
    size: int
    axes: tuple[Axis, ...]
    groups: int = 0
    shared: tuple[Axis, ...] = ()

    def reorder(self, weights: dict[str, Tensor], order: Tensor) -> None:
        """Puts unit order[u] in the place of u, in every weight that knows it."""
        each = [(axis, order) for axis in self.axes]
        if self.groups:
            width = self.size // self.groups
            each += [(axis, order[::width] // width) for axis in self.shared]
        for axis, wanted in each:
            weights[axis.parameter] = axis.reordered(weights[axis.parameter], wanted)


def permutable(net: Network) -> list[Units]:
    """All units of a stack that may change places exactly; none of other bodies.

    Neurons of MLPs, gated ones and experts, and attention heads (with biases, gains and sinks); the entries of the residual
    stream where every part of the model treats them alike. Parts of one's own are left as they are.
    """
    if type(net.spec.body) is not Stack:
        return []
    found = [*_stream(net)]
    known = {f"body.layers.{i}": (i, block) for i, block in enumerate(net.layers)}
    for name, (layer, block) in known.items():
        if _heads_alike(block.part.mix):
            found.append(_heads(f"{name}.mix", layer, block.mix))
    for hidden in hidden_layers(net):
        layer_name = ".".join(hidden.name.split(".")[:3])
        if layer_name in known and _neurons_alike(known[layer_name][1].part.map):
            found.append(_neurons(hidden, known[layer_name][0]))
    return found


def _neurons_alike(part: Any) -> bool:
    return type(part) in HIDDEN or (type(part) is MoE and type(part.expert) in HIDDEN)


def _neurons(hidden: Any, layer: int) -> Units:
    blocks = tuple(gate * hidden.size for gate in range(hidden.gates))
    axes = [Axis(f"{hidden.name}.inner.weight", 0, blocks), Axis(f"{hidden.name}.outer.weight", 1)]
    if hidden.inner.bias is not None:
        axes.append(Axis(f"{hidden.name}.inner.bias", 0, blocks))
    name = f"neurons of {hidden.name.removeprefix('body.')}"
    return Units(name, layer, hidden.size, tuple(axes))


def _attention(part: Any) -> Any:
    """The Attention of a mixer whose parameters are known; None for others."""
    inner = part.attention if type(part) is ScoredAttention else part
    return inner if type(inner) is Attention else None


def _heads_alike(part: Any) -> bool:
    inner = _attention(part)
    if inner is None or type(inner.position) not in (NoPosition, RoPE):
        return False
    norm = inner.qk_norm.norm if type(inner.qk_norm) is AllHeads else inner.qk_norm
    return type(norm) in BY_ENTRY


def _heads(name: str, layer: int, mix: Any) -> Units:
    size, heads, keys = mix.size, mix.heads, mix.kv_heads
    own = [Axis(f"{name}.out.weight", 1, span=size)]
    shared: list[Axis] = []
    for each in ["weight"] + ["bias"] * (mix.qkv.bias is not None):
        own.append(Axis(f"{name}.qkv.{each}", 0, span=size))
        shared.append(Axis(f"{name}.qkv.{each}", 0, (heads * size, (heads + keys) * size), size))
    if mix.part.qk_norm is not None and type(mix.part.qk_norm) is AllHeads:
        own += [Axis(f"{name}.q_norm.{each}", 0, span=size) for each, _ in mix.q_norm.named_parameters()]
        shared += [Axis(f"{name}.k_norm.{each}", 0, span=size) for each, _ in mix.k_norm.named_parameters()]
    if getattr(mix, "sinks", None) is not None:
        own.append(Axis(f"{name}.sinks", 0))
    if keys == heads:
        return Units(f"heads of layer {layer}", layer, heads, (*own, *shared))
    return Units(f"heads of layer {layer}", layer, heads, tuple(own), keys, tuple(shared))


def _stream(net: Network) -> Iterator[Units]:
    """The entries of the residual stream, if every part of the model is known not to tell them apart."""
    spec = net.spec
    blocks = [block.part for block in net.layers]
    alike = (
        all(type(norm) in BY_ENTRY for part in blocks for norm in (part.norm, part.post))
        and all(_attention(part.mix) is not None and _neurons_alike(part.map) for part in blocks)
        and type(spec.norm) in BY_ENTRY
        and type(spec.position) in (Learned, type(None))
        and type(spec.head) is Unembed
        and not spec.head.ahead
    )
    axes = []
    for name in (name for name, _ in net.named_parameters() if alike):
        parts = name.split(".")
        if name.endswith(READING):
            axes.append(Axis(name, 1))
        elif name.endswith(WRITING) or parts[-2] in NORMS:
            axes.append(Axis(name, 0))
        elif not (name.endswith(APART) or {"q_norm", "k_norm"} & {*parts}):
            return
    if alike:
        yield Units("residual stream", None, spec.width, tuple(axes))
