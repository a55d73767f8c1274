"""One-to-one matching of the atoms of two dictionaries."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloche.sparse.dictionary import Dictionary


def match(truth: Dictionary, learned: Dictionary) -> tuple[Tensor, Tensor]:
    """(partner [M], cosine [M]) of each true atom in the matching with the largest summed cosine; -1 and 0 if it has none.

    Every learned atom is matched at most once, so copies do not count, unlike in `mean_max_cosine`.

    >>> import torch
    >>> from cloche.sparse import Dictionary
    >>> from cloche.sparse.truth import match
    >>> partner, cosine = match(Dictionary(torch.eye(3)), Dictionary(torch.eye(3)[[2, 0]]))
    >>> partner.tolist(), cosine.tolist()
    ([1, -1, 0], [1.0, 0.0, 1.0])
    """
    cosine = (truth.unit().double() @ learned.unit().double().T).cpu()  # [M, N]
    if truth.size <= learned.size:
        partner = torch.from_numpy(assign(cosine.numpy()))
    else:
        partner = torch.full((truth.size,), -1)
        partner[torch.from_numpy(assign(cosine.numpy().T))] = torch.arange(learned.size)
    cosines = cosine.gather(1, partner.clamp(min=0)[:, None])[:, 0]
    return partner, torch.where(partner < 0, 0.0, cosines)


def assign(gain: NDArray[np.float64]) -> NDArray[np.int64]:
    """[rows] the column of each row in the one-to-one assignment of the largest summed gain [rows, columns], rows <= columns.

    Shortest augmenting paths with prices (Jonker and Volgenant 1987; Crouse 2016). Each row starts with the column of its
    largest gain; only rows whose column is taken search for an augmenting path.

    >>> import numpy as np
    >>> from cloche.sparse.truth import assign
    >>> assign(np.array([[3.0, 2.0, 0.0], [3.0, 0.0, 0.0]])).tolist()
    [1, 0]
    """
    rows, columns = gain.shape
    cost = -gain
    row_price, column_price = cost.min(1), np.zeros(columns)
    holder, held = np.full(columns, -1), np.full(rows, -1)
    for row, column in enumerate(cost.argmin(1)):
        if holder[column] < 0:
            holder[column], held[row] = row, column
    for start in np.flatnonzero(held < 0):
        distance, before = np.full(columns, np.inf), np.full(columns, -1)
        open_columns = np.ones(columns, bool)
        row, reached = int(start), 0.0
        visited: list[int] = []
        while True:
            through = reached + cost[row] - row_price[row] - column_price
            shorter = open_columns & (through < distance)
            distance[shorter], before[shorter] = through[shorter], row
            column = int(np.where(open_columns, distance, np.inf).argmin())
            reached = distance[column]
            if holder[column] < 0:
                break
            open_columns[column] = False
            visited.append(column)
            row = int(holder[column])
        row_price[start] += reached
        row_price[holder[visited]] += reached - distance[visited]
        column_price[visited] -= reached - distance[visited]
        while True:  # back along the path, each row takes its new column
            row = before[column]
            holder[column], held[row], column = row, column, held[row]
            if row == start:
                break
    return held
