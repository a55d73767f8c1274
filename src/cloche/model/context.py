"""The context of a forward pass that every part sees: positions, mask, and the recorder."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from cloche.model.mixers.masks import Causal, Full, Mask, Prefix
from cloche.model.positions.encodings import Position
from cloche.model.sites.recorder import NULL_RECORDER, Recorder
from cloche.model.sites.slots import make_positions

CAUSAL = (Causal(), Prefix())  # masks that a flag of the fused kernel expresses, where there is no prefix


class Context:
    """One forward pass.

    positions: [batch or 1, query] absolute positions of the tokens being run, negative on left padding.
    keys: [batch or 1, key] those of everything attention may look at: the same, or with a cache what came before too.
    start: how many tokens the cache held before this pass. padded: whether any position is negative. documents: [batch,
    position], the number of each token's document within its row, where attention does not cross documents; positions then
    count from the start of each. prefix: [batch, 1], how many first positions a mask with a prefix shows to all.

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
    def over(
        cls,
        ids: Tensor,
        start: int = 0,
        pad: Tensor | None = None,
        record: Recorder = NULL_RECORDER,
        documents: Tensor | None = None,
        prefix: Tensor | None = None,
    ) -> Context:
        """The pass over ids [batch, position] after `start` tokens; each row starts with `pad` [batch] tokens of left
        padding. With `documents` nothing came before and there is no padding."""
        keys = make_positions(0, start + ids.shape[1], pad, ids.device)
        if documents is not None:
            keys = keys - _starts(documents)
        context = cls(keys[:, start:], keys, start, pad is not None, record)
        context.documents, context.prefix = documents, prefix
        return context

    def __init__(self, positions: Tensor, keys: Tensor, start: int, padded: bool, record: Recorder) -> None:
        self.positions, self.keys = positions, keys
        self.start, self.padded, self.record = start, padded, record
        self.documents: Tensor | None = None
        self.prefix: Tensor | None = None
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
        if not self.padded and self.documents is None and (self.prefix is None or not mask.has_prefix):
            if mask == Full() or (mask in CAUSAL and self.positions.shape[1] == 1):
                return None, False
            if mask in CAUSAL and self.start == 0:
                return None, True
        return self.visible(mask), False

    def visible(self, mask: Mask) -> Tensor:
        """`mask` as a tensor, with padding hidden: bool [batch or 1, 1, query, key]."""
        for known, tensor in self._masks:
            if known == mask:
                return tensor
        query, key = self.positions[:, None, :, None], self.keys[:, None, None, :]
        # Padding sees itself, so that no row of the softmax is empty; nothing else reads its output.
        prefix = None if self.prefix is None else self.prefix[:, None, :, None]
        tensor = (mask.visible(query, key, prefix) & (key >= 0)) | ((query < 0) & (query == key))
        if self.documents is not None:
            tensor = tensor & (self.documents[:, None, :, None] == self.documents[:, None, None, :])
        self._masks.append((mask, tensor))
        return tensor

    def collect(self, losses: dict[str, Tensor]) -> None:
        """Add a part's auxiliary losses to the pass's."""
        for name, loss in losses.items():
            self.losses[name] = self.losses[name] + loss if name in self.losses else loss


def _starts(documents: Tensor) -> Tensor:
    """[batch, position]: where each token's document begins in its row, of documents [batch, position]."""
    places = torch.arange(documents.shape[1], device=documents.device).expand(documents.shape)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return torch.where(begins, places, 0).cummax(1).values
