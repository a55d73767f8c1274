"""Edits that take components out of a pass at one position, alone and in pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cloche.interp.attribution.writes import Branch, Pass, Vector, branch, sites_of
from cloche.model import Edit

Ablation = Literal["zero", "mean", "none"]


@dataclass(frozen=True, eq=False)
class Part:
    """A component that is listed; direct [pair]: what it adds to each logit difference."""

    name: str
    branch: Branch
    index: int  # in its group
    write: Vector
    usual: Vector
    direct: Tensor

    def left(self, ablate: Ablation) -> Tensor:
        """What it writes when ablated, [width]."""
        usual = self.usual(self.index)
        return usual if ablate == "mean" else torch.zeros_like(usual)

    def excess(self, ablate: Ablation) -> Tensor:
        """What its ablation takes out of the branch, [width]."""
        return self.write(self.index) - self.left(ablate)

    def removed(self, position: int, ablate: Ablation) -> Edit:
        """The edit that ablates it alone: nothing before it in the pass has changed."""
        return self.branch.without(self.excess(ablate), position)


def both_removed(made: Pass, pairs: Sequence[tuple[Part, Part]], ablate: Ablation) -> list[tuple[Edit, ...]]:
    """For each pair the edits that ablate both.

    The branch of the later one is computed again in a pass without the earlier one, because it reads what that one wrote.
    """
    without: dict[str, Pass] = {}
    edits: list[tuple[Edit, ...]] = []
    order = [str(site) for site in _in_order(made)]
    for pair in pairs:
        first, second = sorted(pair, key=lambda part: order.index(str(part.branch.site)))
        if str(first.branch.site) == str(second.branch.site):
            edits.append((first.branch.without(first.excess(ablate) + second.excess(ablate), made.position),))
            continue
        edit = first.removed(made.position, ablate)
        if first.name not in without:
            result = made.net.run(made.ids, save=sites_of(made.net, made.by), edits=[edit], logits=False)
            without[first.name] = dataclasses.replace(made, result=result)
        again = branch(without[first.name], second.branch.site)
        written = _write(again, second.name) - second.left(ablate)
        edits.append((edit, again.without(written, made.position)))
    return edits


def _in_order(made: Pass) -> list[object]:
    """The sites of branches in the order of the pass."""
    sites = made.net.sites
    inside = [each[layer] for layer in range(len(made.net.layers)) for each in (sites.attn_out, sites.mlp_out)]
    return [sites.embed, *inside]


def _write(again: Branch, name: str) -> Tensor:
    """What a component writes in another pass; nothing if the token is no longer sent to its expert."""
    for group in again.groups:
        if name in group.names:
            return group.write(list(group.names).index(name))
    return torch.zeros_like(again.value)
