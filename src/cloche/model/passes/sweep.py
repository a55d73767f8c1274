"""Many edits of one prompt in few passes: whatever an edit does not affect is computed once for all of them.

An edit changes nothing before its layer and, where the model is causal, nothing before its position. So one clean
pass keeps the input of each iteration of the body, and the edits join a batch as it runs: at iteration i it gets the
rows of the edits that begin there.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cloche.errors import ArgumentInvalid, ArgumentRange, EditInvalid
from cloche.model.context import Context
from cloche.model.sites import (
    NULL_RECORDER,
    Edit,
    Key,
    Operation,
    PromptSlots,
    Recorder,
    Site,
    make_plan,
    make_positions,
    narrowed,
    position_axis,
)
from cloche.model.sites.checks import check_edits, check_ids, check_no_grad, check_pad, edit_value
from cloche.model.sites.edits import average
from cloche.model.sites.plan import altered

if TYPE_CHECKING:
    from cloche.model.network import Network

TOGETHER = ("apply",)  # kinds of edits that may use all positions at once
STARTS = 4  # the most starting positions; edits that have more share those of some, because each takes a pass
LOGITS_AT_ONCE = 1 << 24  # the most logits held at a time (64 MB in fp32)


@dataclass(frozen=True)
class _Change:
    """One operation with its tensor and its slots: a contiguous span, else a mask [batch or 1, slot]."""

    operation: Operation
    value: Tensor | None
    span: tuple[int, int] | None
    mask: Tensor | None


@dataclass(frozen=True)
class _Variant:
    """One element of the sweep: its changes, and the first layer and slot they touch (-1: the embedding)."""

    index: int
    changes: dict[Key, list[_Change]]
    layer: int
    slot: int


def sweep(
    net: Network, ids: Tensor, edits: Iterable[Any], read: Callable[[Tensor], Any], pad: Tensor | None, rows: int
) -> Tensor:
    """See `Network.sweep`."""
    ids = check_ids(ids, net.spec.vocab, net.length, net.embed.weight.device)
    net.warn_beyond(ids.shape[1])
    pad = check_pad(pad, ids)
    if type(rows) is not int or rows < 1:
        raise ArgumentRange(f"rows={rows!r} must be a whole number of at least one.")
    if not callable(read):
        raise ArgumentInvalid(f"read= takes a function of logits [batch, position, vocab]; got {read!r}.")
    variants = _variants(net, ids, edits, pad)
    return _read_all(net, ids, variants, read, pad, rows)


@torch.no_grad()
def _read_all(
    net: Network, ids: Tensor, variants: list[_Variant], read: Callable[[Tensor], Any], pad: Tensor | None, rows: int
) -> Tensor:
    clean = _Clean(net, ids, pad, shared=any(variant.slot for variant in variants))
    found: dict[int, Tensor] = {}
    for slot, together in itertools.groupby(sorted(variants, key=lambda v: (v.slot, v.layer)), lambda v: v.slot):
        for wave in _pieces(list(together), max(1, rows // len(ids))):
            for variant, logits in _logits(net, wave, clean, slot):
                found[variant.index] = _reading(read, logits)
    try:
        return torch.stack([found[i] for i in range(len(variants))])
    except RuntimeError:
        shapes = " and ".join(sorted({str(list(value.shape)) for value in found.values()}))
        raise ArgumentInvalid(f"read= must return one shape for every edit; it returned {shapes}.") from None


def _reading(read: Callable[[Tensor], Any], logits: Tensor) -> Tensor:
    value = read(logits)
    if not isinstance(value, Tensor | int | float):
        raise ArgumentInvalid(f"read= must return a tensor or a number; it returned {type(value).__name__}.")
    # A copy, because a view would keep the whole batch of logits in memory.
    return value.clone() if isinstance(value, Tensor) else torch.tensor(float(value))


def _pieces(variants: list[_Variant], count: int) -> Iterator[list[_Variant]]:
    for start in range(0, len(variants), count):
        yield variants[start : start + count]


def _variants(net: Network, ids: Tensor, edits: Iterable[Any], pad: Tensor | None) -> list[_Variant]:
    elements = [edits] if isinstance(edits, Edit) else list(edits)
    if not elements:
        raise EditInvalid("This sweep has no edits; give at least one.")
    slots = PromptSlots(ids, pad)
    by_slot = all(getattr(state, "by_slot", False) for state in net.new_states(1, 1))
    shares = net.causal and by_slot
    variants = [
        _variant(net, ids, slots, index, [element] if isinstance(element, Edit) else element, shares)
        for index, element in enumerate(elements)
    ]
    if len({variant.slot for variant in variants}) <= STARTS:
        return variants
    step = -(-ids.shape[1] // STARTS)
    return [dataclasses.replace(variant, slot=variant.slot // step * step) for variant in variants]


def _variant(net: Network, ids: Tensor, slots: PromptSlots, index: int, element: Any, shares: bool) -> _Variant:
    if not isinstance(element, list | tuple) or not element:
        raise ArgumentInvalid(
            f"Each element of a sweep is an edit or a tuple of edits made together; number {index} is {element!r}."
        )
    edits = check_edits(element, net.sites, slots)
    plan, carriers = make_plan([], edits)
    values = [edit_value(edit, ids, net, slots) for edit in carriers]
    check_no_grad(carriers, values)
    changes: dict[Key, list[_Change]] = {}
    depth = len(net.layers)
    layer, slot = depth, ids.shape[1]
    for operation in plan.operations:
        site, where = operation.site, operation.where
        alone = operation.kind not in TOGETHER and not operation.own_mean  # each position separately
        if where is None:
            span: tuple[int, int] | None = (0, ids.shape[1])
        else:
            span = slots.span(where) if alone else None
        mask = slots.mask(where) if span is None else None
        slot = min(slot, slots.first(where) if shares and alone and where is not None else 0)
        layer = min(layer, _layer(site, depth))
        value = None if operation.input is None else values[operation.input]
        changes.setdefault((site.name, site.layer), []).append(_Change(operation, value, span, mask))
    return _Variant(index, changes, layer, slot)


def _layer(site: Site, depth: int) -> int:
    if site.layer is not None:
        return site.layer
    return -1 if site.name == "embed" else depth


class _Clean:
    """The pass without edits: the input of every iteration of the body and, if positions are shared, the caches and
    logits."""

    def __init__(self, net: Network, ids: Tensor, pad: Tensor | None, shared: bool) -> None:
        self.batch, self.length = ids.shape
        self.pad, self.device = pad, ids.device
        context = Context.over(ids, 0, pad)
        self.real = context.positions >= 0
        self.states: list[Any] | None = net.new_states(*ids.shape) if shared else None
        x = net.run_layers(ids, context, stop=0)
        self.starts = [x, x]  # outputs of the embedding and of each iteration, and the input of the final norm
        for i in range(len(net.layers)):
            x, _ = net.body(x, context, self.states, i, i + 1)
            self.starts.append(x)
        if shared:
            self.logits = net.unembed(net.normed(x, NULL_RECORDER))

    def rows(self, iteration: int, slot: int, count: int) -> Tensor:
        """`count` copies of an iteration's input, from `slot` on; -1 is the embedding."""
        start = self.starts[iteration + 1]
        return start[:, slot:].repeat(count, *(1 for _ in start.shape[1:]))

    def states_at(self, iteration: int, slot: int, count: int) -> list[Any] | None:
        """`count` copies of an iteration's cache, to be written from `slot` on."""
        if slot == 0 or self.states is None:
            return None
        return [state.repeated(count) if i == iteration else None for i, state in enumerate(self.states)]

    def context(self, slot: int, count: int, record: Recorder) -> Context:
        """The context of `count` copies from `slot` on."""
        pad = None if self.pad is None else self.pad.repeat(count)
        keys = make_positions(0, self.length, pad, self.device)
        return Context(keys[:, slot:], keys, slot, pad is not None, record)


class _WaveRecorder:
    """The recorder of several variants in one batch: variant i has the rows from i * batch on, and its changes affect
    no others.

    first: the variant of the first rows offered.
    """

    def __init__(self, wave: list[_Variant], clean: _Clean, slot: int) -> None:
        self.batch, self.slot, self.first, self.real = clean.batch, slot, 0, clean.real
        self.changes: dict[Key, list[tuple[int, _Change]]] = {}
        for number, variant in enumerate(wave):
            for key, changes in variant.changes.items():
                self.changes.setdefault(key, []).extend((number, change) for change in changes)

    def wants(self, name: str, layer: int | None) -> bool:
        return (name, layer) in self.changes

    def __call__(self, name: str, layer: int | None, value: Tensor) -> Tensor:
        if (name, layer) not in self.changes:
            return value
        value = value.clone()
        for number, change in self.changes[name, layer]:
            row = (number - self.first) * self.batch
            if 0 <= row < len(value):
                self._change(change, value.narrow(0, row, self.batch))
        return value

    def _change(self, change: _Change, old: Tensor) -> None:
        """Makes one change in place; old: the site's value in the rows of one variant, from `slot` on."""
        site = change.operation.site
        chosen, start, end = change.mask, self.slot, self.slot + old.shape[position_axis(site.whole_axes)]
        if change.span is not None:
            start, end = change.span
            old = old.narrow(position_axis(site.whole_axes), start - self.slot, end - start)
        if site.head_index is not None:
            old = old.select(site.whole_axes.index("head"), site.head_index)
        if change.operation.own_mean:
            value: Tensor | None = average(old, self.real)
            old.copy_(altered(change.operation, old, value, chosen))
            return
        value = None if change.value is None else narrowed(site, change.value, start, end).to(old.dtype)
        old.copy_(altered(change.operation, old, value, None if chosen is None else chosen[:, start:]))


def _logits(net: Network, wave: list[_Variant], clean: _Clean, slot: int) -> Iterator[tuple[_Variant, Tensor]]:
    """Each variant of a wave (ordered by layer) with its logits [batch, position, vocab]."""
    record = _WaveRecorder(wave, clean, slot)
    x = _run_iterations(net, wave, clean, slot, record)
    count = max(1, LOGITS_AT_ONCE // (clean.batch * clean.length * net.spec.vocab))
    for record.first in range(0, len(wave), count):
        part = x[record.first * clean.batch : (record.first + count) * clean.batch]
        logits = record("logits", None, net.unembed(net.normed(part, record)))
        for number, own in enumerate(logits.split(clean.batch), record.first):
            yield wave[number], own if slot == 0 else torch.cat([clean.logits[:, :slot], own], 1)


def _run_iterations(net: Network, wave: list[_Variant], clean: _Clean, slot: int, record: _WaveRecorder) -> Tensor:
    """The input of the final norm, [variant * batch, position from slot on, width]; each variant joins where it
    begins."""
    depth = len(net.layers)
    first = wave[0].layer
    x, count, context = clean.rows(first, slot, 0), 0, clean.context(slot, 1, record)
    for i in range(first, depth + 1):
        joining = sum(variant.layer == i for variant in wave)
        if joining:
            x, count = torch.cat([x, clean.rows(i, slot, joining)]), count + joining
            if clean.pad is not None:
                context = clean.context(slot, count, record)
        if i < 0:
            x = record("embed", None, x)
        elif i < depth:
            x, _ = net.body(x, context, clean.states_at(i, slot, count), i, i + 1)
    return x
