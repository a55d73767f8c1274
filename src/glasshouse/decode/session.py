"""A prompt being continued: the cache, the place reached, and the edits that go with it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from glasshouse.errors import GlasshouseError
from glasshouse.model import Edit, Network, Plan
from glasshouse.model.context import make_positions
from glasshouse.model.edits import selected
from glasshouse.model.plan import BLANK, Blank, Operation, Tape
from glasshouse.model.sites import AXES


class Session:
    """Feeds tokens to a network through its cache.

    ids: [batch, position] the prompt, already checked. pad: [batch] tokens of left padding, or None.
    new: tokens to come at most. Edits name absolute positions, so the same plan serves the prompt and each new token.
    """

    def __init__(self, net: Network, ids: Tensor, pad: Tensor | None, new: int, edits: Iterable[Edit]) -> None:
        batch, length = ids.shape
        if net.length is not None and length + new > net.length:
            raise GlasshouseError(
                f"{length} prompt tokens and {new} new ones are more than the {net.length} positions this model has; "
                f"ask for at most {max(0, net.length - length)} new ones."
            )
        self.net, self.pad, self.start = net, pad, 0
        self.states = net.new_states(batch, length + new)
        plan, self.inputs = net.plan((), edits, ids, pad, new)
        self.lengths = ids.new_full((batch, 1), length) if pad is None else (length - pad)[:, None]
        self.prompt_plan = self._firing(plan, 0, length)
        self.step_plan = self._firing(plan, length, new)
        self._check_step_shapes()

    @torch.no_grad()
    def feed(self, ids: Tensor) -> Tensor:
        """Run ids [batch, new] after what was fed before; logits [batch, vocab] of what follows the last one."""
        plan = self.prompt_plan if self.start == 0 else self.step_plan
        tape: Tape | Blank = BLANK
        if plan.operations:
            positions = make_positions(self.start, ids.shape[1], self.pad, ids.device)
            tape = Tape(plan, self.inputs, positions, self.lengths)
        logits = self.net.step(ids, self.states, self.start, self.pad, tape, last=True)
        self.start += ids.shape[1]
        return logits[:, -1]

    def _firing(self, plan: Plan, start: int, count: int) -> Plan:
        """The operations that touch any of these slots."""
        positions = make_positions(start, count, self.pad, self.lengths.device)
        fires = [op for op in plan.operations if bool(selected(op.where, positions, self.lengths).any())]
        return Plan((), tuple(fires))

    def _check_step_shapes(self) -> None:
        for op in self.step_plan.operations:
            if op.input is not None and _spans_positions(op, self.inputs[op.input]):
                raise GlasshouseError(
                    f"The edit {op} brings a value for each prompt position, and generated tokens are not among them; "
                    "narrow it to the prompt with .at(slice(0, n)), or give one value for all positions."
                )


def _spans_positions(op: Operation, value: Tensor) -> bool:
    axes = [axis for axis in AXES[op.site.name] if axis in op.site.axes]
    from_end = [len(axes) - axes.index(axis) for axis in ("position", "query", "key") if axis in axes]
    return any(value.dim() >= back and value.shape[-back] > 1 for back in from_end)
