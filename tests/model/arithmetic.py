"""A tree with one of its numbers, functions or parts changed, made by rule: what a wrong reading of a config would be."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from cloche.model import Block, Causal, Mask, NoPosition, ParallelBlock, RMSNorm, RoPE, Window, ZeroCenteredRMSNorm
from cloche.model.mixers.masks import Both
from cloche.part import Part

OTHERS = {"gelu": "silu", "gelu_tanh": "gelu", "silu": "gelu_tanh", "relu": "silu", "relu2": "relu"}
DROPPED = ("qk_norm", "post", "scale", "cap", "embed_scale", "scaling", "share")  # may be None


def changed_trees(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(what is changed, the changed tree) for each field whose change keeps the shapes of the weights."""
    if isinstance(tree, tuple):
        for i, item in enumerate(tree):
            for what, other in changed_trees(item, f"{path}[{i}]"):
                yield what, (*tree[:i], other, *tree[i + 1 :])
        return
    if not isinstance(tree, Part):
        return
    yield from ((f"{path or 'it'}: {what}", other) for what, other in _own(tree))
    for field in dataclasses.fields(tree):  # type: ignore[arg-type]
        value = getattr(tree, field.name)
        where = f"{path}.{field.name}".lstrip(".")
        for what, other in _values(field.name, value):
            yield f"{where} {what}", dataclasses.replace(tree, **{field.name: other})  # type: ignore[type-var]
        for what, other in changed_trees(value, where):
            yield what, dataclasses.replace(tree, **{field.name: other})  # type: ignore[type-var]


def _own(part: Part) -> Iterator[tuple[str, Part]]:
    """The same part as another kind."""
    if type(part) is Block:
        yield "its branches side by side", ParallelBlock(part.mix, part.map, part.norm, part.post)
    elif isinstance(part, ParallelBlock):
        yield "branch after branch", Block(part.mix, part.map, part.norm, part.post)
    elif type(part) is ZeroCenteredRMSNorm:
        yield "gain without the one", RMSNorm(part.eps)
    elif isinstance(part, Both):
        yield "without its window", Causal()


def _values(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Other values of one field."""
    if name == "eps":
        yield "larger", value + 3e-3
    elif name in ("theta", "factor", "scale", "cap", "limit", "slope", "embed_scale", "attention") and isinstance(
        value, float | int
    ):
        yield "larger by a tenth", 1.1 * value
    elif name == "shift":
        yield "larger", value + 0.05
    elif name == "activation" and isinstance(value, str):
        yield f"{OTHERS[value]} for {value}", OTHERS[value]
    elif name in ("bias", "out_bias", "router_bias", "sinks") and value:
        yield "missing", False
    elif name == "normalise":
        yield "otherwise", not value
    elif name == "active" and value > 1:
        yield "one fewer", value - 1
    elif name == "mask" and isinstance(value, Mask):
        yield "one token narrower", value & Window(_size(value) - 1 if _size(value) else 5)
    if name in DROPPED and value is not None:
        yield "left out", None
    if isinstance(value, RoPE):
        yield "left out", NoPosition()


def _size(mask: Mask) -> int | None:
    if isinstance(mask, Both):
        return _size(mask.first) or _size(mask.second)
    return mask.size if isinstance(mask, Window) else None
