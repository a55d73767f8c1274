"""One pass under a plan: builds the plan from the arguments, then runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cloche.model.context import Context
from cloche.model.sites import (
    NULL_RECORDER,
    Edit,
    Plan,
    PlanRecorder,
    PromptSlots,
    Result,
    Site,
    check_ids,
    check_pad,
    make_plan,
)
from cloche.model.sites.checks import check_edits, check_no_grad, edit_value

if TYPE_CHECKING:
    from cloche.model.network import Network

Passed = tuple[Tensor | None, tuple[Tensor, ...], dict[int | None, Tensor]]  # logits, kept, patterns' sums
PLANS_HELD = 256  # the most plans to cache


def run(
    net: Network,
    ids: Any,
    save: Iterable[Any] | Site | str,
    edits: Iterable[Edit] | Edit,
    pad: Any,
    logits: bool,
    grad: bool,
    compile: bool | str | Callable[..., Any],
) -> Result:
    """See `Network.run`."""
    ids = check_ids(ids, net.spec.vocab, net.length, net.embed.weight.device)
    pad = check_pad(pad, ids)
    plan, inputs = net.plan(save, edits, ids, pad, grad=grad)
    stop = None if logits else plan.stop
    with torch.set_grad_enabled(grad):
        program = _program(net, plan, stop)
        if compile:
            program = net.compiled(program, ("run", plan, stop), compile)
        out, kept, off = program(ids, pad, inputs)
    notes = net.beyond(ids.shape[1] - (0 if pad is None else int(pad.min())))
    return Result(out, dict(zip(plan.kept, kept, strict=True)), plan, net.sites, pad, off, notes)


def _program(net: Network, plan: Plan, stop: int | None) -> Callable[..., Passed]:
    """The pass of a plan as a function of tensors. stop: the iteration before which it ends, None for the logits."""

    def program(ids: Tensor, pad: Tensor | None, inputs: list[Tensor]) -> Passed:
        lengths = (
            ids.shape[1] - pad[:, None] if pad is not None else torch.full((1, 1), ids.shape[1], device=ids.device)
        )
        context = Context.over(ids, 0, pad)
        record = PlanRecorder(plan, inputs, context.positions, lengths, net.sites)
        context.record = record if plan.touched else NULL_RECORDER
        out = net.logits(ids, context) if stop is None else None
        if stop is not None:
            net.run_layers(ids, context, stop=stop)
        return out, record.saved(), record.off

    return program


def plan_of(
    net: Network,
    save: Iterable[Any] | Site | str,
    edits: Iterable[Edit] | Edit,
    ids: Tensor,
    pad: Tensor | None,
    new: int,
    grad: bool,
) -> tuple[Plan, list[Tensor]]:
    """See `Network.plan`."""
    asked = (save,) if isinstance(save, str | Site) else tuple(save)
    edits = [edits] if isinstance(edits, Edit) else list(edits)
    if not edits:
        return _saves_only(net, asked), []
    saves = [site.whole for what in asked for site in net.sites.resolve(what)]
    slots = PromptSlots(ids, pad, new)
    plan, carriers = make_plan(saves, check_edits(edits, net.sites, slots))
    values = [edit_value(edit, ids, net, slots) for edit in carriers]
    if not grad:
        check_no_grad(carriers, values)
    return plan, values


def _saves_only(net: Network, asked: tuple[Any, ...]) -> Plan:
    """The plan that saves these sites and edits nothing. It holds for every prompt, so it is made once."""
    held = net.save_plans
    try:
        plan = held.get(asked)
    except TypeError:  # what cannot be hashed is not a site, and resolving it raises
        plan = None
    if plan is None:
        plan, _ = make_plan([site.whole for what in asked for site in net.sites.resolve(what)], [])
        if len(held) >= PLANS_HELD:
            held.clear()
        held[asked] = plan
    return plan
