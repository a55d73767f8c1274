"""The recorder of a pass: it edits and saves the sites that a plan names."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

import torch
from torch import Tensor

from cloche.errors import SitesWrong, SiteUnknown
from cloche.model.sites.edits import average, selected
from cloche.model.sites.plan import Key, Operation, Plan, altered
from cloche.model.sites.site_value import Site
from cloche.model.sites.vocabulary import Sites


class Recorder(Protocol):
    """The protocol of `context.record`. Each module offers it the value of each declared site, in the order of the
    pass, and continues with the value it returns.

    A module that would compute a value only for the recorder asks `wants` first, and may skip what is not wanted. layer:
    the number of the iteration that the module was given; None for sites outside the body.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.model import Context
    >>> class Names:
    ...     def wants(self, name, layer):
    ...         return False
    ...     def __call__(self, name, layer, value):
    ...         seen.append(name)
    ...         return value
    >>> seen, net = [], LM(64, 32, Stack(1, Block(Attention(4), GLU()))).build(seed=0)
    >>> context = Context.over(torch.tensor([[1, 2]]), record=Names())
    >>> _ = net.body(torch.zeros(1, 2, 32), context, None, 0, 1)
    >>> seen[0], seen[-1]
    ('resid_pre', 'resid_post')
    """

    def wants(self, name: str, layer: int | None) -> bool:
        """Whether the site's value will be saved or changed."""
        ...

    def __call__(self, name: str, layer: int | None, value: Tensor) -> Tensor:
        """Offer a site's value; returns the value that the rest of the pass must use, of the same shape and dtype."""
        ...


Adjoint = Callable[[Tensor, Recorder], Tensor]  # from cotangents of an output to those of its input; see Module


class PlanRecorder:
    """Carries out a plan in one pass: every part offers its values, and the recorder edits and saves those that the
    plan names.

    sites: those of the model; offering another one, which no plan could name, raises.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Stack, site
    >>> from cloche.model import Context
    >>> from cloche.model.sites import PlanRecorder, PromptSlots, make_plan
    >>> net, ids = LM(64, 32, Stack(1, Block(Attention(4), GLU()))).build(seed=0), torch.tensor([[1, 2]])
    >>> plan, _ = make_plan([site("resid_post[0]")], [])
    >>> slots = PromptSlots(ids, None)
    >>> record = PlanRecorder(plan, [], slots.positions, slots.lengths, net.sites)
    >>> out, _ = net.body(torch.zeros(1, 2, 32), Context.over(ids, record=record), None, 0, 1)
    >>> torch.equal(record.saved()[0], out)
    True
    """

    def __init__(
        self,
        plan: Plan,
        inputs: list[Tensor] | tuple[Tensor, ...],
        positions: Tensor,
        lengths: Tensor,
        sites: Sites,
    ) -> None:
        self.plan, self.inputs, self.names, self.known = plan, inputs, plan.names, sites.names
        self.positions, self.lengths = positions, lengths
        self.kept: dict[Key, Tensor] = {}
        self.off: dict[
            int | None, Tensor
        ] = {}  # by layer of an edited pattern: how far its rows' sums are from what they were

    def saved(self) -> tuple[Tensor, ...]:
        """The saved values, in the plan's order. Raises SitesWrong for a site that was declared but never offered."""
        for name, layer in self.plan.kept:
            if (name, layer) not in self.kept:
                raise SitesWrong(
                    f"{Site(name, layer)} is declared by its module and never offered to the recorder: offer it in forward, or "
                    "leave it out of the module's sites."
                )
        return tuple(self.kept[key] for key in self.plan.kept)

    def wants(self, name: str, layer: int | None) -> bool:
        """Whether the plan touches this site: attention asks before computing its pattern."""
        return (name, layer) in self.plan.touched

    def __call__(self, name: str, layer: int | None, value: Tensor) -> Tensor:
        """Offer a site's value; returns the value that the rest of the pass must use. Saved is the value after the
        edits."""
        if name not in self.names:  # most offers end here, and a pass has hundreds
            if name not in self.known:
                raise undeclared(name, layer)
            return value
        key = (name, layer)
        if key not in self.plan.touched:
            return value
        offered = value
        for operation in self.plan.by_site.get(key, ()):
            value = self._edited(operation, value)
        if name == "pattern" and key in self.plan.by_site:
            self.off[layer] = (value.detach().sum(-1) - offered.detach().sum(-1)).abs().amax()
        if key in self.plan.keeps:
            self.kept[key] = _own(value)
        return value

    def _edited(self, operation: Operation, value: Tensor) -> Tensor:
        site, axes = operation.site, operation.site.whole_axes
        index = site.head_index
        old = value if index is None else value.select(axes.index("head"), index)
        tensor = None if operation.input is None else self.inputs[operation.input].to(value.dtype)
        if operation.own_mean:
            tensor = average(old, self.positions >= 0)
        chosen = None if operation.where is None else selected(operation.where, self.positions, self.lengths)
        new = altered(operation, old, tensor, chosen)
        if index is None:
            return new
        slot = torch.tensor([index], device=value.device)
        return value.index_copy(axes.index("head"), slot, new.unsqueeze(axes.index("head")))


def undeclared(name: str, layer: int | None) -> SiteUnknown:
    """The error for a part that offers a site no module declares."""
    where = "" if layer is None else f" in layer {layer}"
    return SiteUnknown(
        f"A module{where} offers the site {name!r}, which it does not declare, so no plan can name it; say "
        f"self.declare_site({name!r}, each_token(...)) where it is built."
    )


def _own(value: Tensor) -> Tensor:
    """The value itself, or a copy if it is a view of something larger (q of q, k and v), which it would keep in
    memory."""
    if torch.compiler.is_compiling() or value.untyped_storage().nbytes() <= value.numel() * value.element_size():
        return value
    return value.clone(memory_format=torch.contiguous_format)


class NullRecorder:
    """The recorder of a pass that saves and edits nothing.

    >>> from cloche.model.sites import NULL_RECORDER
    >>> NULL_RECORDER.wants("resid_post", 0)
    False
    """

    plan = Plan()

    def wants(self, name: str, layer: int | None) -> bool:
        return False

    def __call__(self, name: str, layer: int | None, value: Tensor) -> Tensor:
        return value


NULL_RECORDER = NullRecorder()


class Keeping:
    """A recorder that keeps the values of the sites of some names, in `kept` by name and layer, and offers all to another.

    Each is a tensor of its own in the graph of gradients, also where two sites hold one value.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.model import Context
    >>> from cloche.model.sites import Keeping
    >>> net, record = LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0), Keeping(["z"])
    >>> ids = torch.tensor([[1, 2]])
    >>> _ = net.logits(ids, Context.over(ids, record=record))
    >>> list(record.kept), record.kept["z", 1].shape
    ([('z', 0), ('z', 1)], torch.Size([1, 2, 4, 8]))
    """

    def __init__(self, names: Collection[str], other: Recorder = NULL_RECORDER) -> None:
        self.names, self.other = frozenset(names), other
        self.kept: dict[tuple[str, int | None], Tensor] = {}

    def wants(self, name: str, layer: int | None) -> bool:
        return name in self.names or self.other.wants(name, layer)

    def __call__(self, name: str, layer: int | None, value: Tensor) -> Tensor:
        value = self.other(name, layer, value)
        if name in self.names:
            value = self.kept[name, layer] = value.view_as(value)
        return value
