"""A prompt that is being continued: its cache, its position, and its edits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from cloche.errors import ArgumentInvalid, ContextExceeded, EditInvalid
from cloche.model import Context, Edit, Network, Plan, Result
from cloche.model.sites import (
    NULL_RECORDER,
    Key,
    Operation,
    PlanRecorder,
    Recorder,
    make_positions,
    narrowed,
    position_axis,
    selected,
    spanned,
)

Stepped = tuple[Tensor, tuple[Tensor, ...]]  # logits of what follows, and what was kept


class Session:
    """Feeds tokens to a network through its cache: first the prompt, whole or in pieces, then the generated tokens.

    ids: [batch, position] the prompt, already checked. pad: [batch] tokens of left padding, or None.
    new: the most tokens that will follow. Edits name absolute positions, so the same plan serves the prompt and each new token.
    compile: the steps after the prompt go through torch.compile (True, or a backend by name or function): one graph
    per plan, whatever the position, the prompt's length or the strength of an edit.

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> net = LM(64, 32, Stack(2, Block(Attention(4), GLU("silu", 64)))).build(seed=0)
    >>> import torch
    >>> from cloche.decode import Session
    >>> session = Session(net, torch.tensor([[1, 2, 3]]), pad=None, new=2)
    >>> following = session.feed(torch.tensor([[1, 2, 3]])).argmax(-1)  # logits [batch, vocab]
    >>> session.feed(following[:, None]).shape
    torch.Size([1, 64])
    """

    def __init__(
        self,
        net: Network,
        ids: Tensor,
        pad: Tensor | None,
        new: int,
        edits: Iterable[Edit] | Edit = (),
        save: Any = (),
        compile: bool | str | Callable[..., Any] = False,
    ) -> None:
        batch, length = ids.shape
        if net.length is not None and length + new > net.length:
            raise ContextExceeded(
                f"{length} prompt tokens and {new} new ones are more than the {net.length} positions this model has; "
                f"ask for at most {max(0, net.length - length)} new ones."
            )
        self.net, self.pad, self.start = net, pad, 0
        self.prompt, self.capacity = length, length + new
        self.states = net.new_states(batch, self.capacity)
        self.plan, self.inputs = net.plan(save, edits, ids, pad, new)
        self.lengths = ids.new_full((batch, 1), length) if pad is None else (length - pad)[:, None]
        self.positions = make_positions(0, self.capacity, pad, ids.device)
        self._axes = {(site.name, site.layer): site.whole_axes for site in self.plan.saves}
        self._kept: dict[Key, Tensor] = {}  # each saved site, with room for every token to come
        self.step_plan = self._firing(length, new)
        self._check_step_shapes()
        plain = _step(net, self.step_plan)
        self._program = net.compiled(plain, ("step", self.step_plan), compile) if compile else plain
        self._dynamic = bool(compile)

    @torch.no_grad()
    def feed(self, ids: Tensor) -> Tensor:
        """Run ids [batch, count] after what was fed before; logits [batch, vocab] of what follows the last one."""
        start, end = self.start, self.start + ids.shape[1]
        if end > self.capacity:
            raise ContextExceeded(
                f"This session has room for {self.capacity} tokens; {end} were fed. Give it a larger new=."
            )
        if start < self.prompt < end:
            raise ArgumentInvalid(f"Feed the {self.prompt} prompt tokens before the new ones; this call holds both.")
        if end < self.prompt and any(mask.has_prefix for mask in self.net.masks):
            raise ArgumentInvalid(
                f"This model's prompt is its prefix, in which tokens see later ones: feed its {self.prompt} tokens at once."
            )
        keys, program, plan = self.positions[:, :end], self._program, self.step_plan
        if start < self.prompt:
            plan = self._firing(start, ids.shape[1])
            program = _step(self.net, plan)
        elif self._dynamic:
            keys = self._marked(keys)
        logits, kept = program(ids, keys, self.pad, self.lengths, self.states, self._inputs(plan, start, end))
        for key, value in zip(plan.kept, kept, strict=True):
            self._keep(key, value, start, end)
        self.start = end
        return logits

    def saved(self) -> Result:
        """The sites of `save=` over all that was fed so far: [batch, position, ...], patterns [batch, head, query, key]."""
        kept = {}
        for key, value in self._kept.items():
            for axis in self._growing(key):
                value = value.narrow(axis, 0, self.start)
            kept[key] = value
        return Result(None, kept, self.plan, self.net.sites, self.pad, notes=self.notes)

    def __repr__(self) -> str:
        kept = ", ".join(map(str, self.plan.saves))
        told = f"<Session: {self.start} of {self.capacity} tokens fed" + (f"; saves {kept}" if kept else "") + ">"
        return "\n".join([told, *(f"Note: {note}" for note in self.notes)])

    @property
    def notes(self) -> list[str]:
        """Remarks on what was fed so far, such as a text longer than the model's context."""
        return self.noted()

    def noted(self, drawn: int = 0) -> list[str]:
        """The notes, counting tokens that were drawn but not fed."""
        return self.net.beyond(self.start + drawn - (0 if self.pad is None else int(self.pad.min())))

    def _keep(self, key: Key, value: Tensor, start: int, end: int) -> None:
        """Write a site's value for the slots from start to end; in a pattern, later keys stay hidden."""
        if key not in self._kept:
            shape = list(value.shape)
            for axis in self._growing(key):
                shape[axis] = self.capacity
            self._kept[key] = value.new_full(shape, -torch.inf if key[0] == "scores" else 0.0)
        axes = self._axes[key]
        place = self._kept[key].narrow(position_axis(axes), start, end - start)
        (place[..., :end] if "key" in axes else place).copy_(value)

    def _growing(self, key: Key) -> list[int]:
        """The axes of a site that grow with each token."""
        return [i for i, axis in enumerate(self._axes[key]) if axis in ("position", "query", "key")]

    def _marked(self, keys: Tensor) -> Tensor:
        """The same positions, with the sizes that grow or differ between prompts marked as dynamic for torch.compile."""
        keys = keys.clone()  # a view's size would be guarded together with that of the tensor it looks into
        torch._dynamo.mark_dynamic(keys, 1)
        for state in self.states:
            for cache, axis in getattr(state, "growing", list)():
                torch._dynamo.mark_dynamic(cache, axis)
        return keys

    def _firing(self, start: int, count: int) -> Plan:
        """The operations that touch any of these slots; one that touches each new slot names no positions any more."""
        fires: list[Operation] = []
        for op in self.plan.operations:
            touched = selected(op.where, self.positions[:, start : start + count], self.lengths)
            if bool(touched.all()) and op.where is not None:
                op = dataclasses.replace(op, where=None)
            if bool(touched.any()):
                fires.append(op)
        return Plan(self.plan.saves, tuple(fires))

    def _inputs(self, plan: Plan, start: int, end: int) -> list[Tensor]:
        """The edits' tensors; for one that spans the prompt, the part for the slots from start to end."""
        inputs = list(self.inputs)
        for op in plan.operations:
            if op.input is not None:
                inputs[op.input] = narrowed(op.site, inputs[op.input], start, end, keys=end)
        return inputs

    def _check_step_shapes(self) -> None:
        for op in self.plan.operations:
            if op.own_mean:
                raise EditInvalid(
                    f"The edit {op} takes the mean of a site over all positions, and those to come are unknown; give it a "
                    "mean, such as a Result of other prompts."
                )
        for op in self.step_plan.operations:
            if op.kind != "noise" and op.input is not None and spanned(op.site, self.inputs[op.input]):
                raise EditInvalid(
                    f"The edit {op} brings a value for each prompt position, and generated tokens are not among them; "
                    "narrow it to the prompt with .at(slice(0, n)), or give one value for all positions."
                )


def _step(net: Network, plan: Plan) -> Callable[..., Stepped]:
    """The pass of a plan over the next tokens, as a function of tensors alone.

    ids: [batch, count]. keys: [batch or 1, start + count] positions of all slots filled when it is done: their number says
    where the new tokens go. lengths: [batch, 1] real tokens of each prompt.
    """

    has_prefix = any(mask.has_prefix for mask in net.masks)

    def step(
        ids: Tensor, keys: Tensor, pad: Tensor | None, lengths: Tensor, states: list[Any], inputs: list[Tensor]
    ) -> Stepped:
        start = keys.shape[1] - ids.shape[1]
        record: Recorder = (
            PlanRecorder(plan, inputs, keys[:, start:], lengths, net.sites) if plan.touched else NULL_RECORDER
        )
        context = Context(keys[:, start:], keys, start, pad is not None, record)
        context.prefix = lengths if has_prefix else None
        logits = net.logits(ids, context, states, last=True)
        return logits[:, -1], record.saved() if isinstance(record, PlanRecorder) else ()

    return step
