"""What an objective is given, and what it asks of the network: batches of token ids, and examples made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenBatch:
    """Rows of token ids, as training and validation give them to an objective.

    ids: [row, length + 1]; the first `length` are inputs, the last `length` their targets. documents: [row, length], the
    number of each input's document within its row where attention must not cross documents, else None. An end token
    as an input begins the next document, as a target it ends the one before. weights: [row, length] of the targets (0:
    padding), else None. seed: of the random choices that an objective makes on this batch.

    Indexing gives ids: `batch[:, :-1]` are the inputs.

    >>> import torch
    >>> from cloche.train import TokenBatch
    >>> batch = TokenBatch(torch.tensor([[5, 6, 0, 7, 8]]), documents=torch.tensor([[0, 0, 1, 1]]))
    >>> batch[:, 1:]
    tensor([[6, 0, 7, 8]])
    """

    ids: Tensor
    documents: Tensor | None = None
    weights: Tensor | None = None
    seed: int = 0

    def __getitem__(self, key: Any) -> Tensor:
        return self.ids[key]

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, batch: TokenBatch | Tensor) -> TokenBatch:
        """The batch itself, or one of plain ids [row, length + 1]."""
        return batch if isinstance(batch, TokenBatch) else cls(batch)

    def row(self, number: int) -> TokenBatch:
        """The batch of one row alone, with the same seed."""
        own = slice(number, number + 1)
        documents, weights = (None if given is None else given[own] for given in (self.documents, self.weights))
        return TokenBatch(self.ids[own], documents, weights, self.seed)

    def generator(self) -> torch.Generator:
        """A generator for the random choices made on this batch, on the CPU: the same for each call."""
        return torch.Generator().manual_seed(self.seed)


class Examples(NamedTuple):
    """What is predicted from what. inputs and targets: [row, position] token ids. weights: [row, position] of the targets,
    None if all are one; a target of weight zero never reaches the head. documents: as in `TokenBatch`. prefix: [row, 1],
    how many first positions every position sees, for a model whose mask has a prefix.

    >>> import torch
    >>> from cloche.train import Examples
    >>> ids = torch.arange(8).view(2, 4)
    >>> Examples(ids, ids).total, Examples(ids, ids, weights=torch.eye(2, 4)).total
    (tensor(8.), tensor(2.))
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor | None = None
    documents: Tensor | None = None
    prefix: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """The sum of the weights."""
        if self.weights is None:
            return torch.tensor(float(self.targets.numel()), device=self.targets.device)
        return self.weights.sum()


def weighted(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """The product of two weightings, where None is one everywhere."""
    return second if first is None else first if second is None else first * second
