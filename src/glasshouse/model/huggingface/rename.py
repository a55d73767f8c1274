"""One rule a tensor: which checkpoint tensors make one of ours, and back without losing a bit."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from glasshouse.errors import GlasshouseError
from glasshouse.model.lm import LM


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


def rules(spec: LM, table: dict[str, str | tuple[str, ...]]) -> list[Rename]:
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


def to_ours(tensors: dict[str, Tensor], rules: Iterable[Rename], where: str) -> dict[str, Tensor]:
    """Our state dict from theirs. Raises GlasshouseError naming any tensor that is missing or not understood."""
    left = dict(tensors)
    out = {}
    stacked: dict[str, int] = {}
    for rule in rules:
        missing = [name for name in rule.theirs if name not in left]
        if missing:
            raise GlasshouseError(
                f"{where} lacks the tensor {missing[0]!r} that its config promises; the file is not whole."
            )
        if rule.item is None:
            parts = [left.pop(name) for name in rule.theirs]
        else:
            parts = [_item(left[name], rule, where) for name in rule.theirs]
            stacked |= {name: stacked.get(name, 0) + 1 for name in rule.theirs}
        parts = [part.T if rule.transposed else part for part in parts]
        if rule.interleaved is not None:
            parts = [_reordered(part, rule.interleaved, rule.blocks) for part in parts]
        out[rule.ours] = torch.cat(parts) if len(parts) > 1 else parts[0].contiguous()
    for name, count in stacked.items():
        if len(left.pop(name)) != count:
            raise GlasshouseError(
                f"{where}: {name} stacks {len(tensors[name])} tensors, and the config asks for {count}."
            )
    if left:
        raise GlasshouseError(
            f"{where} holds a tensor {min(left)!r} that its config does not explain; nothing was loaded."
        )
    return out


def to_theirs(state: dict[str, Tensor], rules: Iterable[Rename], rows: dict[str, list[int]]) -> dict[str, Tensor]:
    """Their state dict from ours; `rows` gives, for a joined tensor, how many rows each part has."""
    out = {}
    stacked: dict[str, dict[int, Tensor]] = {}
    for rule in rules:
        whole = state[rule.ours]
        if rule.interleaved is not None:
            whole = _reordered(whole, rule.blocks, rule.interleaved)
        parts = whole.split(rows[rule.ours]) if len(rule.theirs) > 1 else (whole,)
        for name, part in zip(rule.theirs, parts, strict=True):
            part = (part.T if rule.transposed else part).contiguous().clone()
            if rule.item is None:
                out[name] = part
            else:
                stacked.setdefault(name, {})[rule.item] = part
    return out | {name: torch.stack([parts[i] for i in range(len(parts))]) for name, parts in stacked.items()}


def _item(tensor: Tensor, rule: Rename, where: str) -> Tensor:
    assert rule.item is not None
    if tensor.dim() < 2 or len(tensor) <= rule.item:
        raise GlasshouseError(
            f"{where}: {rule.theirs[0]} has shape {list(tensor.shape)}, and the config asks for more."
        )
    return tensor[rule.item]


def _reordered(tensor: Tensor, outer: int, inner: int) -> Tensor:
    """Rows of [outer, inner, size] as rows of [inner, outer, size]."""
    if tensor.shape[0] % (outer * inner):
        return tensor  # of a wrong size, which is said when it is put in its place
    return tensor.unflatten(0, (outer, inner, -1)).transpose(0, 1).flatten(0, 2)
