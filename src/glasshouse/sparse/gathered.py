"""Encoding and decoding through only the chosen features, with gradients that touch nothing else.

A TopK autoencoder uses k of its N features a signal. Dense automatic differentiation ignores that and pays five products of
[n, d] by [N, d] a step; here a step pays one (to choose the features, in `select`), and the rest costs n * k * d:

    values[n, j] = x[n] . weight[i[n, j]] + bias[i[n, j]]       d weight[f] = sum of d values[n, j] x[n]  where i[n, j] = f
    signal[n]    = sum over j of values[n, j] atoms[i[n, j]]    d atoms[f]  = sum of values[n, j] d signal[n]  likewise

The gradients equal the dense ones up to rounding. The choice itself has no gradient, as in Gao et al. 2024 (2406.04093).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_ROWS = 256  # signals whose chosen rows are gathered at once where no sparse product is available


class Choice:
    """The chosen features of n signals, `indices` [n, k], and the same choice seen from the features."""

    def __init__(self, indices: Tensor, features: int) -> None:
        self.indices = indices
        self.features = features
        self._by_feature: tuple[Tensor, Tensor, Tensor] | None = None

    def by_feature(self) -> tuple[Tensor, Tensor, Tensor]:
        """(slots sorted by feature, the signal of each, where each feature starts); made once, used by both gradients."""
        if self._by_feature is None:
            flat = self.indices.flatten()
            short = flat.to(torch.int16) if self.features <= 2**15 else flat  # 16-bit keys are radix sorted
            order = _argsort(short)
            counts = torch.bincount(flat, minlength=self.features)
            self._by_feature = order, order // self.indices.shape[1], counts.cumsum(0) - counts
        return self._by_feature

    def sum_signals(self, amounts: Tensor, x: Tensor) -> Tensor:
        """[N, d] for each feature, the signals that chose it times their `amounts` [n, k], summed."""
        order, signals, starts = self.by_feature()
        return F.embedding_bag(signals, x, starts, per_sample_weights=amounts.flatten()[order], mode="sum")

    def sum_rows(self, amounts: Tensor, weight: Tensor) -> Tensor:
        """[n, d] for each signal, the rows of `weight` [N, d] it chose times their `amounts`, summed."""
        return F.embedding_bag(self.indices, weight, per_sample_weights=amounts, mode="sum")

    def dot_rows(self, x: Tensor, weight: Tensor) -> Tensor:
        """[n, k] each signal's product with each row of `weight` it chose."""
        n, k = self.indices.shape
        if x.is_cuda or not torch.backends.mkl.is_available():
            pieces = zip(x.split(_ROWS), self.indices.split(_ROWS), strict=True)
            return torch.cat([torch.einsum("nd,nkd->nk", signal, weight[chosen]) for signal, chosen in pieces])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
            starts = torch.arange(0, n * k + 1, k)
            pattern = torch.sparse_csr_tensor(
                starts, self.indices.flatten(), x.new_zeros(n * k), (n, self.features), check_invariants=False
            )
            return torch.sparse.sampled_addmm(pattern, x, weight.T, beta=0.0).values().view(n, k)


def _argsort(keys: Tensor) -> Tensor:
    if keys.is_cuda:
        return keys.argsort(stable=True)
    return torch.from_numpy(keys.numpy().argsort(kind="stable"))


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, values: Tensor, choice: Choice) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.choice = choice
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        choice: Choice = ctx.choice
        to_x = choice.sum_rows(grad, weight) if ctx.needs_input_grad[0] else None
        to_bias = torch.bincount(choice.indices.flatten(), grad.flatten(), minlength=choice.features).to(grad.dtype)
        return to_x, choice.sum_signals(grad, x), to_bias, None, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, atoms: Tensor, choice: Choice) -> Tensor:
        ctx.save_for_backward(values, atoms)
        ctx.choice = choice
        return choice.sum_rows(values, atoms)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        values, atoms = ctx.saved_tensors
        choice: Choice = ctx.choice
        grad = grad.contiguous()
        return choice.dot_rows(grad, atoms), choice.sum_signals(values, grad), None


def encode_chosen(x: Tensor, weight: Tensor, bias: Tensor, values: Tensor, choice: Choice) -> Tensor:
    """[n, k] the chosen entries of x @ weight.T + bias, already known to be `values`, differentiable in x, weight, bias."""
    return _Encode.apply(x, weight, bias, values, choice)


def decode_chosen(values: Tensor, atoms: Tensor, choice: Choice) -> Tensor:
    """[n, d] the sum of each signal's chosen atoms times `values` [n, k], differentiable in values and atoms."""
    return _Decode.apply(values, atoms, choice)
