"""A prompt being continued: the cache, the place reached, and the edits that go with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from glasshouse.errors import GlasshouseError
from glasshouse.model import Edit, Network, Plan, Result
from glasshouse.model.context import make_positions
from glasshouse.model.edits import selected
from glasshouse.model.plan import BLANK, Blank, Key, Tape, narrowed, position_axis, spanned
from glasshouse.model.sites import AXES


class Session:
    """Feeds tokens to a network through its cache: first the prompt, whole or in pieces, then the tokens made.

    ids: [batch, position] the prompt, already checked. pad: [batch] tokens of left padding, or None.
    new: tokens to come at most. Edits name absolute positions, so the same plan serves the prompt and each new token.
    """

    def __init__(
        self,
        net: Network,
        ids: Tensor,
        pad: Tensor | None,
        new: int,
        edits: Iterable[Edit] | Edit = (),
        save: Any = (),
    ) -> None:
        batch, length = ids.shape
        if net.length is not None and length + new > net.length:
            raise GlasshouseError(
                f"{length} prompt tokens and {new} new ones are more than the {net.length} positions this model has; "
                f"ask for at most {max(0, net.length - length)} new ones."
            )
        self.net, self.pad, self.start = net, pad, 0
        self.prompt, self.capacity = length, length + new
        self.states = net.new_states(batch, self.capacity)
        self.plan, self.inputs = net.plan(save, edits, ids, pad, new)
        self.lengths = ids.new_full((batch, 1), length) if pad is None else (length - pad)[:, None]
        self._kept: list[dict[Key, Tensor]] = []
        self.step_plan = self._firing(length, new)
        self._check_step_shapes()

    @torch.no_grad()
    def feed(self, ids: Tensor) -> Tensor:
        """Run ids [batch, count] after what was fed before; logits [batch, vocab] of what follows the last one."""
        start, end = self.start, self.start + ids.shape[1]
        if end > self.capacity:
            raise GlasshouseError(
                f"This session has room for {self.capacity} tokens; {end} were fed. Give it a larger new=."
            )
        if start < self.prompt < end:
            raise GlasshouseError(f"Feed the {self.prompt} prompt tokens before the new ones; this call holds both.")
        plan = self._firing(start, ids.shape[1]) if start < self.prompt else self.step_plan
        tape: Tape | Blank = BLANK
        if plan.touched:
            positions = make_positions(start, ids.shape[1], self.pad, ids.device)
            tape = Tape(plan, self._inputs(plan, start, end), positions, self.lengths)
        logits = self.net.step(ids, self.states, start, self.pad, tape, last=True)
        if isinstance(tape, Tape) and tape.kept:
            self._kept.append(tape.kept)
        self.start = end
        return logits[:, -1]

    def saved(self) -> Result:
        """The sites of `save=` over all that was fed so far: [batch, position, ...], patterns [batch, head, query, key]."""
        kept = {key: self._joined(key) for key in self.plan.kept if self._kept}
        return Result(None, kept, self.plan, self.net.sites, self.pad)

    def _joined(self, key: Key) -> Tensor:
        axes, pieces = AXES[key[0]], [kept[key] for kept in self._kept]
        if "key" in axes:  # earlier queries saw fewer keys: the later ones are hidden from them
            hidden = -torch.inf if key[0] == "scores" else 0.0
            pieces = [
                torch.nn.functional.pad(piece, (0, self.start - piece.shape[-1]), value=hidden) for piece in pieces
            ]
        return torch.cat(pieces, position_axis(axes))

    def _firing(self, start: int, count: int) -> Plan:
        """The operations that touch any of these slots."""
        positions = make_positions(start, count, self.pad, self.lengths.device)
        fires = [op for op in self.plan.operations if bool(selected(op.where, positions, self.lengths).any())]
        return Plan(self.plan.saves, tuple(fires))

    def _inputs(self, plan: Plan, start: int, end: int) -> list[Tensor]:
        """The edits' tensors; of one that spans the prompt, the part that belongs to the slots from start to end."""
        inputs = list(self.inputs)
        for op in plan.operations:
            if op.input is not None:
                inputs[op.input] = narrowed(op.site, inputs[op.input], start, end, keys=end)
        return inputs

    def _check_step_shapes(self) -> None:
        for op in self.plan.operations:
            if op.own_mean:
                raise GlasshouseError(
                    f"The edit {op} takes the mean of a site over all positions, and those to come are unknown; give it a "
                    "mean, such as a Result of other prompts."
                )
        for op in self.step_plan.operations:
            if op.kind != "noise" and op.input is not None and spanned(op.site, self.inputs[op.input]):
                raise GlasshouseError(
                    f"The edit {op} brings a value for each prompt position, and generated tokens are not among them; "
                    "narrow it to the prompt with .at(slice(0, n)), or give one value for all positions."
                )
