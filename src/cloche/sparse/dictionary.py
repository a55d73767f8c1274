"""Dictionaries of atoms, and the protocol of encoders, which find codes over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from cloche.errors import DeviceUnavailable, DictionaryMismatch, NotFinite, SignalsShape
from cloche.sparse.code import Code
from cloche.sparse.scaling import unit_rows

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Dictionary:
    """The D of x = D a: `atoms` [N, d], one atom per row, and an optional `bias` [d] added to every decoded signal.

    >>> import torch
    >>> from cloche.sparse import Code, Dictionary
    >>> dictionary = Dictionary(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), bias=torch.tensor([1.0, 1.0]))
    >>> dictionary
    Dictionary(2 atoms of width 2, bias, float32)
    >>> dictionary.norms.tolist()
    [5.0, 2.0]
    >>> dictionary.decode(Code(torch.tensor([[0, 1]]), torch.tensor([[1.0, -2.0]]), size=2)).tolist()
    [[4.0, 1.0]]
    """

    atoms: Tensor
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.atoms, Tensor):
            raise SignalsShape(
                f"A dictionary's atoms must be a tensor [atoms, width], but a {type(self.atoms).__name__} was given."
            )
        if self.atoms.ndim != 2 or 0 in self.atoms.shape:
            raise SignalsShape(
                f"A dictionary's atoms have shape {list(self.atoms.shape)}, but must be [atoms, width], one atom per row."
            )
        if self.atoms.is_complex():
            raise SignalsShape("A dictionary's atoms are complex numbers: give real ones.")
        if not torch.isfinite(self.atoms).all():
            raise NotFinite("A dictionary's atoms contain NaN or infinity: leave those atoms out.")
        if self.bias is not None:
            self._check_bias(self.bias)

    def _check_bias(self, bias: Tensor) -> None:
        if not isinstance(bias, Tensor) or bias.shape != (self.width,) or bias.is_complex():
            what = (
                f"shape {list(bias.shape)} and type {bias.dtype}"
                if isinstance(bias, Tensor)
                else f"type {type(bias).__name__}"
            )
            raise SignalsShape(f"A dictionary's bias has {what}, but must be a tensor of {self.width} real numbers.")
        if bias.device != self.atoms.device:
            raise DeviceUnavailable(
                f"A dictionary's bias is on {bias.device} and its atoms on {self.atoms.device}: move one with .to(device)."
            )
        if not torch.isfinite(bias).all():
            raise NotFinite("A dictionary's bias contains NaN or infinity: give finite numbers, or no bias.")

    def __repr__(self) -> str:
        bias = "" if self.bias is None else ", bias"
        return f"Dictionary({self.size:,} atoms of width {self.width:,}{bias}, {str(self.atoms.dtype).removeprefix('torch.')})"

    @property
    def size(self) -> int:
        """N, the number of atoms."""
        return self.atoms.shape[0]

    @property
    def width(self) -> int:
        """d, the length of an atom."""
        return self.atoms.shape[1]

    @property
    def gram(self) -> Tensor:
        """[N, N] inner products of the atoms. Cached; computed again only after the atoms are changed in place."""
        return self._cached("gram", lambda: (self.atoms @ self.atoms.T).detach())

    @property
    def norms(self) -> Tensor:
        """[N] norms of the atoms, cached like the Gram matrix."""
        return self._cached("norms", lambda: torch.linalg.vector_norm(self.atoms, dim=1).detach())

    def double(self) -> Dictionary:
        """This dictionary in float64, for what single precision cannot decide. Cached like the Gram matrix, with caches of
        its own."""
        if self.atoms.dtype == torch.float64:
            return self
        return self._cached("double", self._in_double)

    def _in_double(self) -> Dictionary:
        return Dictionary(self.atoms.detach().double(), None if self.bias is None else self.bias.detach().double())

    def _cached(self, name: str, compute: Callable[[], T]) -> T:
        # Not in the fields, since frozen concerns the contents of the dictionary. A prefix, so that no value hides the
        # method of its name.
        version = tuple(-1 if t is None or t.is_inference() else t._version for t in (self.atoms, self.bias))
        at, value = self.__dict__.get(f"_cached_{name}", (None, None))
        if at != version:
            value = compute()
            self.__dict__[f"_cached_{name}"] = (version, value)
        return value

    def unit(self) -> Tensor:
        """[N, d] atoms scaled to unit norm (a zero atom stays zero)."""
        return unit_rows(self.atoms)

    def decode(self, code: Code) -> Tensor:
        """[n, d] signals that `code` represents: the sum of its atoms times its values, plus the bias."""
        if code.size != self.size:
            raise DictionaryMismatch(
                f"A code over {code.size:,} atoms cannot be decoded by a dictionary of {self.size:,}: use the dictionary "
                "that it was encoded with."
            )
        signals = F.embedding_bag(code.indices, self.atoms, per_sample_weights=code.values, mode="sum")
        return signals if self.bias is None else signals + self.bias


class Encoder(Protocol):
    """Finds the codes of signals `x` [n, d]: a learned encoder, or a pursuit over a dictionary (`pursuit.over(D)`).

    >>> import torch
    >>> from cloche.sparse import Code, Dictionary, report
    >>> class Largest:
    ...     def encode(self, x):
    ...         values, indices = x.max(1, keepdim=True)
    ...         return Code(indices, values, x.shape[1])
    >>> report(Largest(), Dictionary(torch.eye(2)), torch.tensor([[1.0, 0.0], [0.0, 2.0]])).fvu
    0.0
    """

    def encode(self, x: Tensor) -> Code: ...


def random_atoms(size: int, width: int, rng: torch.Generator) -> Tensor:
    """[size, width] unit vectors, uniformly distributed over directions."""
    return F.normalize(torch.randn(size, width, generator=rng), dim=1)


def mean_max_cosine(truth: Tensor, learned: Tensor) -> float:
    """Mean over the true atoms `truth` [M, d] of the best cosine with any of the `learned` atoms [N, d]. It is one if every
    true atom was found. Random atoms score about sqrt(2 ln N / d), not zero: compare against a control.

    >>> import torch
    >>> from cloche.sparse import mean_max_cosine
    >>> mean_max_cosine(torch.eye(3), torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.5], [0.0, 0.0, 1.0]]))
    0.666...
    """
    cosine = unit_rows(truth.double()) @ unit_rows(learned.double()).T  # [M, N]
    return float(cosine.amax(1).mean())
