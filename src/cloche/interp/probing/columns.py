"""Sparse and dense matrices of units as a probe reads them: whole columns, and products with a few vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cloche.sparse import Code


@dataclass(frozen=True, eq=False)
class _Lists:
    """A sparse matrix by rows: `index` and `value` of its entries, row i from `start[i]` on."""

    index: Tensor
    value: Tensor
    start: Tensor

    @classmethod
    def of(cls, row: Tensor, index: Tensor, value: Tensor, rows: int) -> _Lists:
        order = torch.argsort(row, stable=True)
        start = torch.bincount(row, minlength=rows).cumsum(0) - torch.bincount(row, minlength=rows)
        return cls(index[order], value[order], start)

    def times(self, other: Tensor) -> Tensor:
        """[rows, m] the product with [columns, m]."""
        return F.embedding_bag(self.index, other, self.start, mode="sum", per_sample_weights=self.value)


class SparseColumns:
    """[n, N] float32 with few nonzero entries: the operations that a probe needs, without the dense array."""

    def __init__(self, row: Tensor, column: Tensor, value: Tensor, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._entries = row, column, value
        self._by_row = _Lists.of(row, column, value, shape[0])
        self._by_column = _Lists.of(column, row, value, shape[1])

    @classmethod
    def of(cls, code: Code) -> SparseColumns:
        """The values of a code, one column per atom."""
        used = code.values != 0
        row = torch.arange(len(code))[:, None].expand_as(used)[used]
        return cls(row, code.indices[used].cpu(), code.values[used].float().cpu(), (len(code), code.size))

    def rows(self, which: NDArray[np.bool_]) -> SparseColumns:
        """Only those rows."""
        kept = torch.from_numpy(which)
        row, column, value = self._entries
        stays = kept[row]
        return SparseColumns(
            (kept.cumsum(0) - 1)[row[stays]], column[stays], value[stays], (int(kept.sum()), self.shape[1])
        )

    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """([N] sums, [N] sums of squares) over the rows."""
        _, column, value = self._entries
        wide = torch.stack([value.double(), value.double().square()], 1)
        sums = torch.zeros(self.shape[1], 2, dtype=torch.float64).index_add_(0, column, wide)
        return sums[:, 0].numpy(), sums[:, 1].numpy()

    def dense(self, which: Any) -> NDArray[np.float64]:
        """[n, k] these columns."""
        place = torch.full((self.shape[1],), -1)
        place[list(which)] = torch.arange(len(which))
        row, column, value = self._entries
        found = place[column] >= 0
        out = torch.zeros(self.shape[0], len(which), dtype=torch.float64)
        out[row[found], place[column[found]]] = value[found].double()
        return out.numpy()

    def times(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """[n, m] the product with weights [N, m]."""
        return self._by_row.times(torch.from_numpy(weights).float()).double().numpy()

    def transposed_times(self, slopes: NDArray[np.float64]) -> NDArray[np.float64]:
        """[N, m] the transpose times [n, m]."""
        return self._by_column.times(torch.from_numpy(slopes).float()).double().numpy()


class DenseColumns:
    """The same operations on a float32 array [n, N]."""

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values
        self.shape = values.shape

    def rows(self, which: NDArray[np.bool_]) -> DenseColumns:
        return DenseColumns(self.values[which])

    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return self.values.sum(0, dtype=np.float64), np.square(self.values, dtype=np.float64).sum(0)

    def dense(self, which: Any) -> NDArray[np.float64]:
        return self.values[:, list(which)].astype(np.float64)

    def times(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(self.values @ weights.astype(np.float32), np.float64)

    def transposed_times(self, slopes: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(self.values.T @ slopes.astype(np.float32), np.float64)
