"""A sparse code: which atoms each signal uses, and how much of each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.errors import SignalsShape


@dataclass(frozen=True, eq=False)
class Code:
    """Sparse codes of n signals over a dictionary of `size` atoms, at most k atoms each.

    `indices` [n, k] (int64) are the atoms and `values` [n, k] their coefficients, in the units of the signals. A slot with
    value zero is unused, whatever its index. No atom appears in two used slots of one row.

    >>> import torch
    >>> from cloche.sparse import Code
    >>> code = Code(torch.tensor([[2, 0], [1, 0]]), torch.tensor([[0.5, 3.0], [1.0, 0.0]]), size=4)
    >>> code
    Code(2 signals over 4 atoms, at most 2 each, 1.5 used on average)
    >>> code.dense().tolist()
    [[3.0, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0]]
    """

    indices: Tensor
    values: Tensor
    size: int

    def __post_init__(self) -> None:
        if self.indices.shape != self.values.shape or self.indices.ndim != 2:
            raise SignalsShape(
                f"A code needs indices and values of the same shape [n, k], but has {list(self.indices.shape)} and "
                f"{list(self.values.shape)}: give each signal as many indices as values."
            )

    def __repr__(self) -> str:
        l0 = f", {float(self.active.double().mean()):.3g} used on average" if len(self) else ""
        return f"Code({len(self):,} signals over {self.size:,} atoms, at most {self.k:,} each{l0})"

    def __len__(self) -> int:
        return self.indices.shape[0]

    @property
    def k(self) -> int:
        """Slots per signal; `active` counts the atoms that each signal uses."""
        return self.indices.shape[1]

    @property
    def active(self) -> Tensor:
        """[n] number of atoms that each signal uses (L0)."""
        return (self.values != 0).sum(1)

    def counts(self) -> Tensor:
        """[size] number of signals that use each atom."""
        return torch.bincount(self.indices[self.values != 0], minlength=self.size)

    def dense(self) -> Tensor:
        """[n, size] the code as a dense matrix. It takes n * size numbers, so it is never computed unless called."""
        out = self.values.new_zeros(len(self), self.size)
        return out.scatter_add_(1, self.indices, self.values)
