"""Encoding and decoding through the selected features only, with gradients that touch nothing else.

A k-sparse autoencoder uses k of its N features per signal. Dense automatic differentiation ignores that and computes
five products of [n, d] by [N, d] per step; here a step computes one (to select the features, in `choose`), and the
rest costs n * k * d. With m slots in all, slot s being feature f(s) of signal n(s):

    values[s] = x[n(s)] . weight[f(s)] + bias[f(s)]        d weight[f] = sum of d values[s] x[n(s)]   where f(s) = f
    signal[n] = sum of values[s] atoms[f(s)], n(s) = n     d atoms[f]  = sum of values[s] d signal[n(s)]  likewise

The gradients equal the dense ones up to rounding. The selection itself has no gradient, as in Gao et al. 2024 (2406.04093).
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_SLOTS = 8_192  # slots whose rows are gathered at once if no sparse product is available


class Chosen(ABC):
    """The features that may be active in n signals, of `features` in all: some of them (`Choice`) or all (`AllFeatures`).

    `values`, one per slot, have the shape of what `encode` returns.
    """

    features: int

    @abstractmethod
    def __len__(self) -> int:
        """n, the number of signals."""

    @abstractmethod
    def encode(self, x: Tensor, centre: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The slots' entries of (x - centre) @ weight.T + bias, differentiable in all four."""

    @abstractmethod
    def decode(self, values: Tensor, atoms: Tensor, start: int = 0, end: int | None = None) -> Tensor:
        """[n, d] each signal's sum of atoms times `values`, of features `start` to `end`; differentiable in both."""

    @abstractmethod
    def at(self, weight: Tensor) -> Tensor:
        """`weight` [features] at the slots, broadcastable with values; a scalar stays one."""

    @abstractmethod
    def counts(self, values: Tensor) -> Tensor:
        """[features] number of signals in which each feature is positive."""


class AllFeatures(Chosen):
    """All features of n signals: values are [n, features], computed by dense products."""

    def __init__(self, n: int, features: int) -> None:
        self.n, self.features = n, features

    def __len__(self) -> int:
        return self.n

    def encode(self, x: Tensor, centre: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.addmm(bias, x - centre, weight.T)

    def decode(self, values: Tensor, atoms: Tensor, start: int = 0, end: int | None = None) -> Tensor:
        return values[:, start:end] @ atoms[start:end]

    def at(self, weight: Tensor) -> Tensor:
        return weight.expand(self.n, self.features) if weight.ndim else weight

    def counts(self, values: Tensor) -> Tensor:
        return (values > 0).sum(0)


class Choice(Chosen):
    """Slots of n signals: their features are `indices` [m], signal i's from `starts[i]` to `starts[i + 1]`.

    `pre` [m] are their pre-activations (x - centre) @ weight.T + bias, known from the selection, so `encode` only
    returns them.
    """

    def __init__(self, indices: Tensor, starts: Tensor, features: int, pre: Tensor) -> None:
        self.indices, self.starts, self.features, self.pre = indices, starts, features, pre

    @classmethod
    def equal(cls, indices: Tensor, pre: Tensor, features: int) -> Choice:
        """The same number for each signal: `indices` and `pre` [n, k]."""
        n, k = indices.shape
        starts = torch.arange(0, n * k + 1, k, device=indices.device)
        return cls(indices.flatten(), starts, features, pre.flatten())

    def __len__(self) -> int:
        return len(self.starts) - 1

    def encode(self, x: Tensor, centre: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return _Encode.apply(x, centre, weight, bias, self)

    def decode(self, values: Tensor, atoms: Tensor, start: int = 0, end: int | None = None) -> Tensor:
        if start == 0 and (end is None or end >= self.features):
            return _Decode.apply(values, atoms, self)
        kept = (self.indices >= start) & (self.indices < (self.features if end is None else end))
        return _Decode.apply(values[kept], atoms, self.within(kept))

    def at(self, weight: Tensor) -> Tensor:
        return weight[self.indices] if weight.ndim else weight

    def counts(self, values: Tensor) -> Tensor:
        return torch.bincount(self.indices[values > 0], minlength=self.features)

    def padded(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Indices and values [n, slots], with as many slots as the signal with most features needs; the rest are zero."""
        slots = max(1, int(self.starts.diff().max())) if len(self) else 1
        if len(self.indices) == len(self) * slots:
            return self.indices.view(len(self), slots), values.view(len(self), slots)
        place = torch.arange(len(self.indices), device=self.indices.device) - self.starts[self.signals]
        where = self.signals, place
        indices, padded = self.indices.new_zeros(len(self), slots), values.new_zeros(len(self), slots)
        return indices.index_put_(where, self.indices), padded.index_put_(where, values)

    @cached_property
    def signals(self) -> Tensor:
        """[m] the signal of each slot."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.indices.device), self.starts.diff())

    @cached_property
    def by_feature(self) -> tuple[Tensor, Tensor, Tensor]:
        """(slots sorted by feature, the signal of each, where each feature starts); computed once, used by both gradients."""
        short = self.indices.to(torch.int16) if self.features <= 2**15 else self.indices  # 16-bit keys are radix sorted
        order = _argsort(short)
        counts = torch.bincount(self.indices, minlength=self.features)
        return order, self.signals[order], counts.cumsum(0) - counts

    def within(self, kept: Tensor) -> Choice:
        """Only the slots where `kept` [m] holds."""
        before = F.pad(kept.cumsum(0), (1, 0))
        return Choice(self.indices[kept], before[self.starts], self.features, self.pre[kept])

    def sum_signals(self, values: Tensor, x: Tensor) -> Tensor:
        """[N, d] for each feature, the signals that chose it times their `values` [m], summed."""
        order, signals, starts = self.by_feature
        return F.embedding_bag(signals, x, starts, per_sample_weights=values[order], mode="sum")

    def sum_rows(self, values: Tensor, weight: Tensor) -> Tensor:
        """[n, d] for each signal, the rows of `weight` [N, d] it chose times their `values`, summed."""
        return F.embedding_bag(self.indices, weight, self.starts[:-1], per_sample_weights=values, mode="sum")

    def dot_rows(self, x: Tensor, weight: Tensor) -> Tensor:
        """[m] each signal's product with each row of `weight` it chose."""
        if x.is_cuda or not torch.backends.mkl.is_available() or len(self.indices) == 0:
            pieces = zip(self.signals.split(_SLOTS), self.indices.split(_SLOTS), strict=True)
            return torch.cat([(x[signals] * weight[chosen]).sum(1) for signals, chosen in pieces])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
            pattern = torch.sparse_csr_tensor(
                self.starts,
                self.indices,
                x.new_zeros(len(self.indices)),
                (len(self), self.features),
                check_invariants=False,
            )
            return torch.sparse.sampled_addmm(pattern, x, weight.T, beta=0.0).values()


def _argsort(keys: Tensor) -> Tensor:
    if keys.is_cuda:
        return keys.argsort(stable=True)
    return torch.from_numpy(keys.numpy().argsort(kind="stable"))


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, centre: Tensor, weight: Tensor, bias: Tensor, choice: Choice) -> Tensor:
        ctx.save_for_backward(x, centre, weight)
        ctx.choice = choice
        return choice.pre.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, centre, weight = ctx.saved_tensors
        choice: Choice = ctx.choice
        to_x = choice.sum_rows(grad, weight) if ctx.needs_input_grad[0] else None
        to_bias = torch.bincount(choice.indices, grad, minlength=choice.features).to(grad.dtype)
        # The centre is subtracted from every signal, so its gradient needs no pass over the slots.
        to_centre = -(to_bias @ weight) if ctx.needs_input_grad[1] else None
        return to_x, to_centre, choice.sum_signals(grad, x - centre), to_bias, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, atoms: Tensor, choice: Choice) -> Tensor:
        ctx.save_for_backward(values, atoms)
        ctx.choice = choice
        return choice.sum_rows(values, atoms)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, atoms = ctx.saved_tensors
        choice: Choice = ctx.choice
        grad = grad.contiguous()
        to_values = choice.dot_rows(grad, atoms) if ctx.needs_input_grad[0] else None
        return to_values, choice.sum_signals(values, grad) if ctx.needs_input_grad[1] else None, None
