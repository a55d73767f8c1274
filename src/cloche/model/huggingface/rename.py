"""One rule a tensor: which checkpoint tensors make one of ours, and back without losing a bit."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.model.lm import LM

Names = dict[str, str | tuple[str, ...]]  # a table of tensors: see `rules`


@dataclass(frozen=True)
class Rename:
    """`ours` is the tensors `theirs`, joined by rows; each transposed first where they keep [in, out].

    interleaved: their rows come in turns of (blocks, this many heads or units, size), ours block after block; `blocks` of them.
    item: ours is this one of the tensors stacked in theirs.
    """

    ours: str
    theirs: tuple[str, ...]
    transposed: bool = False
    interleaved: int | None = None
    blocks: int = 3
    item: int | None = None


def rules(spec: LM, table: Names) -> list[Rename]:
    """A rule for every tensor of a tree, from a table of names.

    table: our module's name to theirs, or to the several that are joined in ours; `*` stands for a number, the same in both.
    A name that is not in the table stands for itself, so that what it belongs to is refused by name.
    """
    with torch.device("meta"):
        parameters = [name for name, _ in spec.build(seed=None).named_parameters()]
    found = []
    for ours in parameters:
        stem, kind = ours.rsplit(".", 1)
        numbers = re.findall(r"\.(\d+)", stem)
        theirs = table.get(re.sub(r"\.\d+", ".*", stem), stem)
        names = []
        for name in (theirs,) if isinstance(theirs, str) else theirs:
            for number in numbers:
                name = name.replace("*", number, 1)
            names.append(f"{name}.{kind}")
        found.append(Rename(ours, tuple(names)))
    return found


def places(rule: Rename, ours: Tensor, rows: list[int]) -> list[tuple[str, Tensor]]:
    """Each of a rule's checkpoint tensors with the view of ours that holds its numbers, in the order in which it keeps them.

    rows: how many rows of ours each of several has. The view may have more axes than the tensor: see `shape_of`.
    """
    found = []
    for name, part in zip(rule.theirs, ours.split(rows) if len(rule.theirs) > 1 else (ours,), strict=True):
        if (
            rule.interleaved is not None
        ):  # rows of [blocks, interleaved, size], which they keep as [interleaved, blocks, size]
            part = part.unflatten(0, (rule.blocks, rule.interleaved, -1)).transpose(0, 1)
        found.append((name, part.movedim(-1, 0) if rule.transposed else part))
    return found


def shape_of(rule: Rename, view: Tensor) -> list[int]:
    """The shape of a checkpoint tensor (or, where it is stacked, of each item) whose place is `view`."""
    if rule.interleaved is None:
        return list(view.shape)
    rows = math.prod(view.shape[1:4] if rule.transposed else view.shape[:3])
    return [view.shape[0], rows] if rule.transposed else [rows, *view.shape[3:]]


def to_theirs(
    state: dict[str, Tensor], rules: Iterable[Rename], rows: dict[str, list[int]]
) -> dict[str, tuple[list[int], list[Tensor]]]:
    """Each of their tensors from ours: its shape, and the views that hold its numbers, one after the other.

    rows: how many rows each of the matrices that share a tensor of ours has.
    """
    out: dict[str, tuple[list[int], list[Tensor]]] = {}
    stacked: dict[str, dict[int, tuple[list[int], Tensor]]] = {}
    for rule in rules:
        for name, view in places(rule, state[rule.ours], rows[rule.ours]):
            shape = shape_of(rule, view)
            if rule.item is None:
                out[name] = (shape, [view])
            else:
                stacked.setdefault(name, {})[rule.item] = (shape, view)
    for name, items in stacked.items():
        shapes, views = zip(*(items[i] for i in range(len(items))), strict=True)
        out[name] = ([len(items), *shapes[0]], list(views))
    return out
