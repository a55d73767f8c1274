"""A dictionary of atoms, and the protocol of whatever finds codes over one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from cloche.errors import ClocheError
from cloche.sparse.code import Code

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Dictionary:
    """The D of x = D a: `atoms` [N, d], one atom a row, and an optional `bias` [d] added to every decoded signal."""

    atoms: Tensor
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        if self.atoms.ndim != 2 or 0 in self.atoms.shape:
            raise ClocheError(
                f"A dictionary's atoms have shape {list(self.atoms.shape)}, but must be [atoms, width], one atom a row."
            )
        if not torch.isfinite(self.atoms).all():
            raise ClocheError("A dictionary's atoms hold NaN or infinite numbers: leave those atoms out.")

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
        """[N, N] the atoms' products with each other. Kept, and computed anew only after the atoms were changed in place."""
        return self._kept("gram", lambda: (self.atoms @ self.atoms.T).detach())

    @property
    def norms(self) -> Tensor:
        """[N] the norms of the atoms; kept like the Gram."""
        return self._kept("norms", lambda: torch.linalg.vector_norm(self.atoms, dim=1).detach())

    def double(self) -> Dictionary:
        """The same in float64, for what single precision cannot settle; kept like the Gram, and keeping its own."""
        if self.atoms.dtype == torch.float64:
            return self
        bias = None if self.bias is None else self.bias.double()
        return self._kept("double", lambda: Dictionary(self.atoms.detach().double(), bias))

    def _kept(self, name: str, compute: Callable[[], T]) -> T:
        version = -1 if self.atoms.is_inference() else self.atoms._version
        at, value = self.__dict__.get(name, (None, None))
        if at != version:
            value = compute()
            self.__dict__[name] = (version, value)  # beside the fields: frozen is about what the dictionary is
        return value

    def unit(self) -> Tensor:
        """[N, d] the atoms, each scaled to norm one (a zero atom stays zero)."""
        return F.normalize(self.atoms, dim=1)

    def decode(self, code: Code) -> Tensor:
        """[n, d] the signals that `code` stands for: the sum of its atoms times its values, plus the bias."""
        if code.size != self.size:
            raise ClocheError(
                f"A code over {code.size:,} atoms cannot be decoded by a dictionary of {self.size:,}: use the dictionary "
                "it was encoded with."
            )
        signals = F.embedding_bag(code.indices, self.atoms, per_sample_weights=code.values, mode="sum")
        return signals if self.bias is None else signals + self.bias


class Encoder(Protocol):
    """Finds the codes of signals `x` [n, d]: a learned encoder, or a pursuit over a dictionary (`pursuit.over(D)`)."""

    def encode(self, x: Tensor) -> Code: ...


def random_atoms(size: int, width: int, rng: torch.Generator) -> Tensor:
    """[size, width] directions, every one as likely as another, of norm one."""
    return F.normalize(torch.randn(size, width, generator=rng), dim=1)


def mean_max_cosine(truth: Tensor, learned: Tensor) -> float:
    """How well `learned` atoms [N, d] cover the `truth` [M, d]: for each true atom its best cosine, averaged.

    One when each true atom was found. Random atoms score about sqrt(2 ln N / d), not zero: compare against a control.
    """
    cosine = F.normalize(truth.double(), dim=1) @ F.normalize(learned.double(), dim=1).T  # [M, N]
    return float(cosine.amax(1).mean())
