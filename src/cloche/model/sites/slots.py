"""Resolves positions of edits (indices, slices, "last", "new") to slots in a batch of prompts."""

from __future__ import annotations

import torch
from torch import Tensor

from cloche.model.sites.edits import Where, selected


class PromptSlots:
    """The slots of a prompt [batch, position] and of `new` tokens after it; each form of position is resolved once.

    positions: [batch or 1, slot] absolute, negative on padding. lengths: [batch or 1, 1] real tokens of each prompt.

    >>> import torch
    >>> from cloche.model.sites import PromptSlots
    >>> slots = PromptSlots(torch.tensor([[0, 5, 6], [7, 8, 9]]), pad=torch.tensor([1, 0]), new=2)
    >>> slots.positions
    tensor([[-1,  0,  1,  2,  3],
            [ 0,  1,  2,  3,  4]])
    >>> slots.span("new")
    (3, 5)
    """

    def __init__(self, ids: Tensor, pad: Tensor | None, new: int = 0) -> None:
        batch, width = ids.shape
        self.pad, self.width, self.new = pad, width, new
        self.lengths = torch.full((batch, 1), width, device=ids.device) if pad is None else (width - pad)[:, None]
        self.positions = make_positions(0, width + new, pad, ids.device)
        self._masks: dict[Where, Tensor] = {}
        self._spans: dict[Where, tuple[int, int] | None] = {}
        self._silent: dict[Where, int | None] = {}

    def mask(self, where: Where) -> Tensor:
        """bool [batch or 1, slot]: the real tokens that `where` names."""
        if where not in self._masks:
            self._masks[where] = selected(where, self.positions, self.lengths)
        return self._masks[where]

    def first_row_without(self, where: Where) -> int | None:
        """The first row in which `where` names no token; None if every row has one."""
        if where not in self._silent:
            silent = (~self.mask(where).any(-1)).nonzero()
            self._silent[where] = int(silent[0]) if len(silent) else None
        return self._silent[where]

    def first(self, where: Where) -> int:
        """The first slot that `where` names in any row."""
        span = self.span(where)
        return span[0] if span is not None else int(self.mask(where).any(0).nonzero()[0])

    def span(self, where: Where) -> tuple[int, int] | None:
        """(first slot, past the last) if `where` names one contiguous range, the same in every row; else None."""
        if where not in self._spans:
            self._spans[where] = self._unbroken(where)
        return self._spans[where]

    def _unbroken(self, where: Where) -> tuple[int, int] | None:
        mask = self.mask(where)
        if not bool((mask == mask[:1]).all()):
            return None
        slots = mask[0].nonzero()[:, 0].tolist()
        return (slots[0], slots[-1] + 1) if slots and slots[-1] - slots[0] + 1 == len(slots) else None


def make_positions(start: int, count: int, pad: Tensor | None, device: torch.device) -> Tensor:
    """Absolute positions [batch or 1, count] of tokens in slots start..start+count-1, `pad` [batch] slots of left padding.

    >>> import torch
    >>> from cloche.model.sites import make_positions
    >>> make_positions(0, 4, torch.tensor([1]), torch.device("cpu"))
    tensor([[-1,  0,  1,  2]])
    """
    slots = torch.arange(start, start + count, device=device)[None]
    return slots if pad is None else slots - pad[:, None]
