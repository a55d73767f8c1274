"""A plan: the sites that a pass saves and edits, frozen and hashable, without tensors.

The tensors of the edits are ordinary inputs beside it, so changing a strength neither traces nor compiles again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cloche.model.sites.edits import Edit, Kind, Where, changed
from cloche.model.sites.fingerprint import fingerprint
from cloche.model.sites.vocabulary import Site

Key = tuple[str, int | None]


@dataclass(frozen=True)
class Operation:
    """One edit without its tensor; `input` is the index of its tensor among the plan's inputs.

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> net = LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> str(net.run([[1, 2]], edits=[net.sites.z[1].head(3).zero().at(-1)]).plan.operations[0])
    'zero z[1].head(3) at -1'
    """

    site: Site
    kind: Kind
    where: Where
    input: int | None
    function: Callable[[Tensor], Tensor] | None = None

    @property
    def own_mean(self) -> bool:
        """Whether it uses the mean of the site itself, and so needs all positions at once."""
        return self.kind == "mean" and self.input is None

    def __str__(self) -> str:
        place = "" if self.where is None else f" at {self.where}"
        name = "" if self.function is None else f" {getattr(self.function, '__qualname__', self.function)}"
        return f"{self.kind}{name} {self.site}{place}"


@dataclass(frozen=True)
class Plan:
    """Sites to save and operations to apply, in order. The other fields follow from these two.

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> net = LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    >>> plan = net.run([[1, 2]], save=["resid_post[1]"], edits=[net.sites.attn_out[0].zero()]).plan
    >>> [str(site) for site in plan.saves], len(plan.operations)
    (['resid_post[1]'], 1)
    """

    saves: tuple[Site, ...] = ()
    operations: tuple[Operation, ...] = ()
    by_site: dict[Key, tuple[Operation, ...]] = field(init=False, compare=False, repr=False)
    kept: tuple[Key, ...] = field(init=False, compare=False, repr=False)
    keeps: frozenset[Key] = field(init=False, compare=False, repr=False)
    touched: frozenset[Key] = field(init=False, compare=False, repr=False)
    names: frozenset[str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Plain attributes, not cached properties: torch.compile reads them inside the pass.
        by_site: dict[Key, tuple[Operation, ...]] = {}
        for operation in self.operations:
            key = (operation.site.name, operation.site.layer)
            by_site[key] = (*by_site.get(key, ()), operation)
        kept = tuple(dict.fromkeys((site.name, site.layer) for site in self.saves))
        object.__setattr__(self, "by_site", by_site)
        object.__setattr__(self, "kept", kept)
        object.__setattr__(self, "keeps", frozenset(kept))
        object.__setattr__(self, "touched", frozenset(by_site) | frozenset(kept))
        object.__setattr__(self, "names", frozenset(name for name, _ in self.touched))

    @property
    def stop(self) -> int | None:
        """The first iteration of the body that the plan does not need; None if it needs the logits."""
        if any(layer is None and name != "embed" for name, layer in self.touched):
            return None
        return max((layer + 1 for _, layer in self.touched if layer is not None), default=0)

    def __str__(self) -> str:
        return "; ".join([*(f"save {site}" for site in self.saves), *map(str, self.operations)]) or "nothing"

    @property
    def hash(self) -> str:
        """First 16 hex digits of the sha256 of the plan's text and the fingerprints of its applied functions."""
        told = [str(self), *(fingerprint(o.function) for o in self.operations if o.function is not None)]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def make_plan(saves: list[Site], edits: list[Edit]) -> tuple[Plan, list[Edit]]:
    """The plan of these sites and edits, and the edits that bring a tensor, in the order of the plan's inputs.

    >>> from cloche import site
    >>> from cloche.model.sites import make_plan
    >>> edits = [site("z[0]").zero(), site("resid_post[1]").scale(0.5)]
    >>> plan, with_tensor = make_plan([site("logits")], edits)
    >>> str(plan), [str(edit) for edit in with_tensor]
    ('save logits; zero z[0]; scale resid_post[1]', ['scale resid_post[1]'])
    """
    operations: list[Operation] = []
    carriers: list[Edit] = []
    for edit in edits:
        index = None
        if edit.kind not in ("zero", "apply") and not edit.own_mean:
            index = len(carriers)
            carriers.append(edit)
        operations.append(Operation(edit.site, edit.kind, edit.where, index, edit.function))
    return Plan(tuple(dict.fromkeys(saves)), tuple(operations)), carriers


def altered(operation: Operation, old: Tensor, tensor: Tensor | None, chosen: Tensor | None) -> Tensor:
    """A site's value after an operation (only of its head, if it names one).

    chosen: the tokens it touches, bool [batch or 1, position]; None for all.
    """
    new = changed(operation.kind, old, tensor, operation.function)
    if chosen is not None:
        shape = [1] * old.dim()
        shape[0], shape[position_axis(operation.site.axes)] = chosen.shape
        new = torch.where(chosen.view(shape), new, old)
    if operation.site.name == "scores":
        new = torch.where(old == -torch.inf, old, new)  # no edit of the scores makes a hidden key visible
    return new


def position_axis(axes: tuple[str, ...]) -> int:
    """The axis of a site that positions of edits index; in a pattern, the queries.

    >>> from cloche.model.sites import position_axis
    >>> position_axis(("batch", "head", "query", "key"))
    2
    """
    return axes.index("query" if "query" in axes else "position")


def spanned(site: Site, value: Tensor) -> list[tuple[str, int]]:
    """The axes on which an edit's tensor has a value for each position, with their dimensions (from the end).

    >>> import torch
    >>> from cloche import site
    >>> from cloche.model.sites import spanned
    >>> spanned(site("resid_post[1]"), torch.zeros(5, 32)), spanned(site("resid_post[1]"), torch.zeros(32))
    ([('position', -2)], [])
    """
    axes = site.axes
    found = [(axis, axes.index(axis) - len(axes)) for axis in ("position", "query", "key") if axis in axes]
    return [(axis, dim) for axis, dim in found if value.dim() >= -dim and value.shape[dim] > 1]


def narrowed(site: Site, value: Tensor, start: int, end: int, keys: int | None = None) -> Tensor:
    """The part of an edit's tensor for the slots from start to end, and in a pattern for the first `keys` keys.

    >>> import torch
    >>> from cloche import site
    >>> from cloche.model.sites import narrowed
    >>> narrowed(site("resid_post[1]"), torch.arange(5.0)[:, None].expand(5, 32), 2, 4)[:, 0]
    tensor([2., 3.])
    """
    for axis, dim in spanned(site, value):
        if axis != "key":
            value = value.narrow(dim, start, end - start)
        elif keys is not None:
            value = value.narrow(dim, 0, keys)
    return value
