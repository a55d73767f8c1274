"""Base of all pursuits: interface, validation, and distribution of signals over threads."""

from __future__ import annotations

import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from cloche.errors import SettingRange, shown
from cloche.part import Part
from cloche.sparse.code import Code
from cloche.sparse.dictionary import Dictionary

T = TypeVar("T")

LARGEST_GRAM = 2**31  # bytes; above, a CPU pursuit uses the Gram-free path if it has one
_SCORES = 2**22  # correlations held at once
_DENSE = 2**26  # coefficients written out at once by a batched pursuit


class Pursuit(Part, ABC):
    """Algorithm that finds sparse codes a of signals x = D a. A pursuit holds settings only; the dictionary is an argument.

    >>> import torch
    >>> from cloche.sparse import Dictionary
    >>> from cloche.sparse.pursuit import OMP, Pursuit
    >>> pursuit = OMP(k=1)
    >>> isinstance(pursuit, Pursuit), pursuit.to_line()
    (True, 'OMP(k=1, residual=0.0)')
    >>> pursuit.encode(torch.tensor([[0.1, 3.0]]), Dictionary(torch.eye(2))).dense().tolist()
    [[0.0, 3.0]]
    """

    renamed = {  # noqa: RUF012 (a ClassVar of Part)
        "omp": "OMP",
        "nonnegative-omp": "NonNegativeOMP",
        "mp": "MatchingPursuit",
        "iht": "IHT",
        "htp": "HardThresholdingPursuit",
        "lasso": "Lasso",
        "lars": "LARS",
        "bpdn": "BasisPursuitDenoising",
    }

    @abstractmethod
    def encode(self, x: Tensor, dictionary: Dictionary) -> Code:
        """Codes of the signals `x` [n, d] over `dictionary`, computed in the dictionary's precision, on its device.

        The dictionary's bias is subtracted first, so `dictionary.decode` of the code approximates x. Atoms must have unit
        norm.
        """

    def over(self, dictionary: Dictionary) -> Pursued:
        """This pursuit bound to a dictionary: an Encoder, usable like a learned one."""
        return Pursued(self, dictionary)


@dataclass(frozen=True, eq=False)
class Pursued:
    """A pursuit over a dictionary, as an Encoder.

    >>> import torch
    >>> from cloche.sparse import Dictionary, report
    >>> from cloche.sparse.pursuit import OMP
    >>> encoder = OMP(k=1).over(Dictionary(torch.eye(2)))
    >>> report(encoder, encoder.dictionary, torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    Report(2 signals, FVU 0, L0 1, 0.0% of 2 atoms unused)
    """

    pursuit: Pursuit
    dictionary: Dictionary

    def __repr__(self) -> str:
        return f"{self.pursuit} over {self.dictionary}"

    def encode(self, x: Tensor) -> Code:
        return self.pursuit.encode(x, self.dictionary)


def warn_short(missed: int, n: int, gap: float) -> None:
    """Warns that `missed` of n signals did not reach the duality gap."""
    if missed:
        warnings.warn(
            f"{missed:,} of {n:,} signals did not reach a duality gap of {gap:g} of their energy: ask for a larger gap.",
            stacklevel=4,
        )


def fits_gram(x: Tensor, dictionary: Dictionary) -> bool:
    """Whether to use the compiled path over the Gram."""
    return x.device.type == "cpu" and dictionary.size**2 * x.element_size() <= LARGEST_GRAM


def check_atoms(k: int | None, dictionary: Dictionary) -> int:
    """Maximum number of atoms per signal: `k`, or as many as can be independent if it is None."""
    if k is None:
        return min(dictionary.size, dictionary.width)
    check_whole("k", k)
    if not 1 <= k <= dictionary.size:
        raise SettingRange(
            f"k = {k:,} atoms per signal cannot be selected from a dictionary of {dictionary.size:,}: choose k from 1 to "
            f"{dictionary.size:,}."
        )
    return k


def check_whole(name: str, amount: int) -> None:
    """Raises if a setting is not a whole number."""
    if isinstance(amount, bool) or not isinstance(amount, Integral):
        raise SettingRange(f"{name} is {shown(amount)}, but must be a whole number: choose another {name}.")


def check_amount(name: str, amount: float, *, zero: bool = True) -> None:
    """Raises if a setting is negative, NaN or infinite, or zero unless `zero`."""
    if isinstance(amount, bool) or not isinstance(amount, Real) or not abs(amount) <= sys.float_info.max:
        raise SettingRange(f"{name} is {shown(amount)}, but must be a finite number: choose another {name}.")
    if amount < 0 or (amount == 0 and not zero):
        raise SettingRange(
            f"{name} is {amount:g}, but must be a finite number {'of zero or more' if zero else 'above zero'}: "
            f"choose another {name}."
        )


def rounding_floor(dtype: torch.dtype) -> float:
    """Share of a signal's norm below which a correlation is rounding."""
    return 32 * torch.finfo(dtype).eps


def dependence_limit(dtype: torch.dtype) -> float:
    """Squared distance of an atom from the span of others below which a Gram of this precision has too few digits."""
    return 1e4 * torch.finfo(dtype).eps


def unexplained_limit(dtype: torch.dtype) -> float:
    """Share of a signal's energy that may remain if no atom correlates with it; above, the correlation may have been lost
    in single precision."""
    return 1e-4 if dtype == torch.float32 else float("inf")


def recomputed(code: Code, doubtful: Tensor, again: Callable[[Tensor], Code]) -> Code:
    """`code` with the rows that are `doubtful` [n] replaced by again(those rows), in float64."""
    rows = doubtful.nonzero()[:, 0]
    if len(rows) == 0:
        return code
    exact = again(rows)
    slots = max(code.k, exact.k)
    indices = torch.nn.functional.pad(code.indices, (0, slots - code.k))
    values = torch.nn.functional.pad(code.values, (0, slots - code.k))
    indices[rows] = torch.nn.functional.pad(exact.indices, (0, slots - exact.k))
    values[rows] = torch.nn.functional.pad(exact.values, (0, slots - exact.k)).to(values.dtype)
    return Code(indices, values, code.size)


def trimmed(indices: Tensor, values: Tensor, size: int) -> Code:
    """A Code without the slots that no signal uses; used slots must come first in each row."""
    used = int((values != 0).sum(1).max()) if len(values) else 0
    return Code(indices[:, : max(used, 1)].contiguous(), values[:, : max(used, 1)].contiguous(), size)


def packed(dense: Tensor) -> Code:
    """The Code of dense coefficients [n, N], converted some signals at a time."""
    used = dense != 0
    counts = used.sum(1)
    slots = int(counts.max()) if len(dense) else 0
    indices = torch.zeros(len(dense), max(slots, 1), dtype=torch.int64, device=dense.device)
    row, atom = used.nonzero(as_tuple=True)
    slot = torch.arange(len(row), device=dense.device) - (counts.cumsum(0) - counts)[row]
    indices[row, slot] = atom
    values = dense.new_zeros(indices.shape)
    values[row, slot] = dense[row, atom]
    return Code(indices, values, dense.shape[1])


def joined(codes: list[Code], dictionary: Dictionary) -> Code:
    """Concatenation of codes."""
    slots = max((code.k for code in codes), default=1)
    pad = [(0, slots - code.k) for code in codes]
    indices = [torch.nn.functional.pad(code.indices, p) for code, p in zip(codes, pad, strict=True)]
    values = [torch.nn.functional.pad(code.values, p) for code, p in zip(codes, pad, strict=True)]
    if not codes:
        empty = dictionary.atoms.new_zeros(0, slots)
        return Code(empty.long(), empty, dictionary.size)
    return Code(torch.cat(indices), torch.cat(values), dictionary.size)


Kernel = Callable[[slice, np.ndarray], T]


def by_correlations(x: Tensor, dictionary: Dictionary, kernel: Kernel[T]) -> list[T]:
    """Results of kernel(rows, correlations [rows, N]) for all signals, in order, on torch's number of threads.

    A kernel may overwrite its correlations. Compiled kernels release the interpreter lock.
    """
    given: list[T] = []
    threads = torch.get_num_threads()
    step = max(threads, min(512, _SCORES // dictionary.size))
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(x), step):
            scores = as_array(x[start : start + step] @ dictionary.atoms.detach().T)
            edges = np.linspace(0, len(scores), min(threads, len(scores)) + 1).astype(int).tolist()
            rows = [slice(start + a, start + b) for a, b in pairwise(edges)]
            parts = [scores[a:b] for a, b in pairwise(edges)]
            given += pool.map(kernel, rows, parts)
    return given


def in_batches(
    dictionary: Dictionary, batched: Callable[..., tuple[Code, Tensor]], *given: Tensor
) -> tuple[Code, Tensor]:
    """Results of `batched` (a code, and a flag per row) for all rows of the tensors `given`, in batches limited by their
    dense coefficients."""
    step = max(1, _DENSE // dictionary.size)
    pieces = [batched(*piece) for piece in zip(*(tensor.split(step) for tensor in given), strict=True)]
    return joined([code for code, _ in pieces], dictionary), torch.cat([told for _, told in pieces])


def as_array(tensor: Tensor) -> np.ndarray:
    """The memory of a CPU tensor, row after row."""
    return tensor.detach().contiguous().numpy()


def as_integers(scores: np.ndarray) -> tuple[np.ndarray, np.integer]:
    """The same memory as integers, and the mask that takes their sign bit off: see `omp_kernel.largest`."""
    kind = np.int32 if scores.itemsize == 4 else np.int64
    return scores.view(kind), kind(np.iinfo(kind).max)
