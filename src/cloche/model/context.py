"""The context of a forward pass that every part sees: positions, mask, and the recorder."""

from __future__ import annotations

import copy

from torch import Tensor

from cloche.model.mixers.masks import Causal, Full, Mask
from cloche.model.positions.encodings import Position
from cloche.model.sites.recorder import NULL_RECORDER, Recorder
from cloche.model.sites.slots import make_positions


class Context:
    """One forward pass.

    positions: [batch or 1, query] absolute positions of the tokens being run, negative on left padding.
    keys: [batch or 1, key] those of everything attention may look at: the same, or with a cache what came before too.
    start: how many tokens the cache held before this pass. padded: whether any position is negative.

    >>> import torch
    >>> from cloche import Causal
    >>> from cloche.model import Context
    >>> context = Context.over(torch.tensor([[5, 6, 7]]), pad=torch.tensor([1]))
    >>> context.positions
    tensor([[-1,  0,  1]])
    >>> context.visible(Causal())[0, 0, 2]
    tensor([False,  True,  True])
    """

    @classmethod
    def over(cls, ids: Tensor, start: int = 0, pad: Tensor | None = None, record: Recorder = NULL_RECORDER) -> Context:
        """The pass over ids [batch, position] after `start` tokens; each row starts with `pad` [batch] tokens of left
        padding."""
        keys = make_positions(0, start + ids.shape[1], pad, ids.device)
        return cls(keys[:, start:], keys, start, pad is not None, record)

    def __init__(self, positions: Tensor, keys: Tensor, start: int, padded: bool, record: Recorder) -> None:
        self.positions, self.keys = positions, keys
        self.start, self.padded, self.record = start, padded, record
        self.losses: dict[str, Tensor] = {}
        self._tables: list[tuple[Position, int, tuple[Tensor, Tensor] | None]] = []
        self._masks: list[tuple[Mask, Tensor]] = []

    def recorded_by(self, record: Recorder) -> Context:
        """The same pass with another recorder."""
        other = copy.copy(self)
        other.record = record
        return other

    def table(self, position: Position, head_size: int) -> tuple[Tensor, Tensor] | None:
        """The rotation table of this pass, computed once for all layers that share the encoding."""
        for known, size, table in self._tables:
            if known == position and size == head_size:
                return table
        table = position.table(self.positions, head_size)
        self._tables.append((position, head_size, table))
        return table

    def mask(self, mask: Mask) -> tuple[Tensor | None, bool]:
        """(mask, is_causal) as scaled_dot_product_attention takes them; a tensor only if a flag cannot express it.

        The tensor is bool [batch or 1, 1, query, key], True where the query sees the key.
        """
        if not self.padded:
            if mask == Full() or (mask == Causal() and self.positions.shape[1] == 1):
                return None, False
            if mask == Causal() and self.start == 0:
                return None, True
        return self.visible(mask), False

    def visible(self, mask: Mask) -> Tensor:
        """`mask` as a tensor, with padding hidden: bool [batch or 1, 1, query, key]."""
        for known, tensor in self._masks:
            if known == mask:
                return tensor
        query, key = self.positions[:, None, :, None], self.keys[:, None, None, :]
        # Padding sees itself, so that no row of the softmax is empty; nothing else reads its output.
        tensor = (mask.allows(query, key) & (key >= 0)) | ((query < 0) & (query == key))
        self._masks.append((mask, tensor))
        return tensor

    def collect(self, losses: dict[str, Tensor]) -> None:
        """Add a part's auxiliary losses to the pass's."""
        for name, loss in losses.items():
            self.losses[name] = self.losses[name] + loss if name in self.losses else loss
