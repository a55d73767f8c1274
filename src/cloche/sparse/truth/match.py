"""Atoms of one dictionary paired with those of another, one to one."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from cloche.sparse.dictionary import Dictionary


def match(truth: Dictionary, learned: Dictionary) -> tuple[Tensor, Tensor]:
    """(partner [M], cosine [M]) of each true atom in the pairing of the largest summed cosine: -1 and 0 where it has none.

    Every learned atom serves one true atom at most, so a copy earns nothing, as it does in `mean_max_cosine`.
    """
    cosine = (truth.unit().double() @ learned.unit().double().T).cpu()  # [M, N]
    true_atom, other = (torch.as_tensor(side) for side in linear_sum_assignment(cosine.numpy(), maximize=True))
    partner = torch.full((truth.size,), -1)
    partner[true_atom] = other
    cosines = torch.zeros(truth.size, dtype=torch.float64)
    cosines[true_atom] = cosine[true_atom, other]
    return partner, cosines
