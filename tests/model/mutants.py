"""Models whose recordings, declarations or modules have one thing wrong, made by rule from the models themselves."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from combinations import LENGTH, VOCAB
from torch import Tensor

from cloche.model import (
    GLU,
    LM,
    MLP,
    AllHeads,
    Attention,
    Block,
    Causal,
    ClampedGLU,
    LayerNorm,
    Learned,
    MoE,
    Network,
    NoNorm,
    ParallelBlock,
    RMSNorm,
    RoPE,
    ScoredAttention,
    Stack,
    Unembed,
    Window,
    ZeroCenteredRMSNorm,
)
from cloche.model.sites import DeclaredSite
from cloche.model.sites.plan import Key

_GROUPED = Attention(4, kv_heads=2, head_size=6, position=RoPE(50.0), bias=True)
_LOCAL = dataclasses.replace(_GROUPED, mask=Causal() & Window(3), qk_norm=ZeroCenteredRMSNorm())
SPECS: dict[str, LM] = {
    "llama": LM(VOCAB, 12, Stack(3, Block(_GROUPED, GLU(hidden=10, bias=True)))),
    "gpt2": LM(
        VOCAB,
        12,
        Stack(3, Block(Attention(3, bias=True), MLP(hidden=14, bias=True), LayerNorm())),
        norm=LayerNorm(),
        tied=True,
        position=Learned(LENGTH),
    ),
    "gpt_neox": LM(
        VOCAB,
        12,
        Stack(3, ParallelBlock(Attention(2, head_size=8, position=RoPE(50.0, share=0.5)), MLP("gelu_tanh", 14))),
        norm=LayerNorm(),
    ),
    "gemma": LM(
        VOCAB,
        12,
        Stack(
            3,
            Block(
                ScoredAttention(_LOCAL, scale=0.3, cap=2.0),
                GLU("gelu_tanh", hidden=10),
                ZeroCenteredRMSNorm(),
                ZeroCenteredRMSNorm(),
            ),
        ),
        norm=ZeroCenteredRMSNorm(),
        head=Unembed(cap=3.0),
        tied=True,
        embed_scale=3.0,
    ),
    "gpt_oss": LM(
        VOCAB,
        12,
        Stack(
            3, Block(ScoredAttention(_GROUPED, sinks=True), MoE(4, 3, ClampedGLU(9, True, limit=0.5), router_bias=True))
        ),
    ),
    "olmo2": LM(
        VOCAB,
        12,
        Stack(
            3,
            Block(dataclasses.replace(_GROUPED, qk_norm=AllHeads()), GLU("relu", hidden=10), NoNorm(), RMSNorm()),
        ),
    ),
}


# What is recorded wrongly ------------------------------------------------------------------------------------------------


def wrong_values(net: Network, key: Key, right: dict[Key, Tensor]) -> dict[str, Tensor]:
    """Wrong recordings of one site by name, from what a right pass recorded."""
    value, declared = right[key], net.sites.declared(net.sites.resolve(_text(key))[0])
    name, layer = key
    found = {
        "twice": 2 * value,
        "a thousandth more": 1.001 * value,
        "the token before": value.roll(1, declared.axes.index("query" if "query" in declared.axes else "position")),
        "the other text": value.flip(0),
    }
    if "head" in declared.axes:
        axis = declared.axes.index("head")
        pairs = [i ^ 1 if i ^ 1 < value.shape[axis] else i for i in range(value.shape[axis])]
        found |= {
            "the neighbouring head": value.roll(1, axis),
            "heads swapped in pairs": value.index_select(axis, torch.tensor(pairs)),
        }
    if layer:
        found["the layer below"] = right[name, layer - 1]
    for first, second in itertools.combinations(range(1, value.dim()), 2):
        found[f"{declared.axes[first]} and {declared.axes[second]} transposed"] = value.transpose(first, second)
    before = [other for other in right if other != key and right[other].shape == value.shape]
    if before and list(right).index(before[0]) < list(right).index(key):
        last = [other for other in before if list(right).index(other) < list(right).index(key)][-1]
        found[f"{_text(last)}, the one before"] = right[last]
    return {how: wrong for how, wrong in found.items() if _differs(wrong, value)}


def _text(key: Key) -> str:
    return key[0] if key[1] is None else f"{key[0]}[{key[1]}]"


def _differs(wrong: Tensor, right: Tensor) -> bool:
    """Whether it is a mutant at all: RMSNorm's output is the same whatever its input's length, and a NoNorm's is its input."""
    if wrong.shape != right.shape:
        return True
    return not torch.allclose(wrong, right, rtol=1e-4, atol=1e-5)


# What is declared wrongly ------------------------------------------------------------------------------------------------


def wrong_declarations(declared: DeclaredSite) -> Iterator[tuple[str, DeclaredSite]]:
    """A site's declaration with one thing wrong, each with a name."""
    sizes = dict(declared.sizes)
    for axis, size in sizes.items():
        if size is not None:
            yield f"{axis} + 1", DeclaredSite(sizes | {axis: size + 1}, declared.view_of)
        if axis not in ("batch", "position", "query"):
            renamed = {("other" if known == axis else known): n for known, n in sizes.items()}
            yield f"{axis} called otherwise", DeclaredSite(renamed, declared.view_of)
    for first, second in itertools.combinations(list(sizes)[1:], 2):
        swap = {first: second, second: first}
        axes = [swap.get(axis, axis) for axis in sizes]
        yield f"{first} and {second} transposed", DeclaredSite({axis: sizes[axis] for axis in axes}, declared.view_of)
    yield "view of another", DeclaredSite(sizes, None if declared.view_of else "embed")


# What is computed wrongly ------------------------------------------------------------------------------------------------


def wrong_modules(net: Network) -> Iterator[tuple[str, Callable[[], None]]]:
    """Each number, function, bias and order of blocks that a module of the network computes with, and what spoils it."""
    for prefix, module in net.named_modules():
        if not prefix or ".0." in prefix or prefix.startswith("body.layers.2"):
            continue  # the middle layer, the first expert and what stands outside the layers say it all
        for name, value in vars(module).items():
            if isinstance(value, float) and value:
                yield f"{prefix}.{name} doubled", lambda m=module, n=name, v=value: setattr(m, n, 2 * v + 0.1)
            elif callable(value) and name == "f":
                yield f"{prefix}.{name} another", lambda m=module: setattr(m, "f", torch.sin)
        for name, parameter in module._parameters.items():
            if parameter is not None and name in ("bias", "sinks"):
                yield f"{prefix}.{name} missing", lambda p=parameter, m=module, n=name: _without(m, n, p)
        for name, declared in getattr(module, "declared", {}).items():
            if name == "weight" and declared.blocks:
                yield f"{prefix}.{name} in another order", lambda m=module, d=declared: _reordered(m, d)


def _without(module: Any, name: str, parameter: Tensor) -> None:
    """The forward pass computes as if the parameter were zero, which it is not."""
    right = module.forward

    def forward(*given: Any) -> Any:
        held = parameter.detach().clone()
        parameter.data.zero_()
        try:
            return right(*given)
        finally:
            parameter.data.copy_(held)

    module.forward = forward
    if hasattr(module, "split"):
        module.split = lambda x, rows: forward(x).split(rows, -1)


def _reordered(module: Any, declared: Any) -> None:
    blocks = dict(reversed(declared.blocks.items()))
    module.declared["weight"] = dataclasses.replace(declared, blocks=blocks)
