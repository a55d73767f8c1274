"""Scales rows to magnitude one by powers of two, which is exact, so that squares neither overflow nor underflow."""

from __future__ import annotations

import torch
from torch import Tensor


def exponents(rows: Tensor) -> Tensor:
    """[n] e such that the largest magnitude of each row of `rows` [n, d] lies in [2^(e-1), 2^e); 0 for a row of zeros."""
    return torch.frexp(rows.abs().amax(1)).exponent if rows.shape[1] else rows.new_zeros(len(rows), dtype=torch.int32)


def shifted(rows: Tensor, by: Tensor) -> Tensor:
    """`rows` [n, ...] times 2^by [n], in two steps because 2^by alone may overflow."""
    half = by.div(2, rounding_mode="floor")
    shape = (-1,) + (1,) * (rows.ndim - 1)
    return rows * _power(half, rows.dtype).view(shape) * _power(by - half, rows.dtype).view(shape)


def unit_rows(rows: Tensor) -> Tensor:
    """Rows of `rows` [n, d] scaled to unit norm, however large or small; a row of zeros stays zero."""
    return torch.nn.functional.normalize(shifted(rows, -exponents(rows.detach())), dim=1)


def _power(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """Exact 2^exponent, written into the bits, for exponents of normal numbers."""
    if dtype == torch.float64:
        return ((exponent.long() + 1023) << 52).view(torch.float64)
    return ((exponent.int() + 127) << 23).view(torch.float32)
