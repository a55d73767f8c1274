"""A dictionary of atoms, and the protocol of whatever finds codes over one."""

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
    """The D of x = D a: `atoms` [N, d], one atom a row, and an optional `bias` [d] added to every decoded signal."""

    atoms: Tensor
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.atoms, Tensor):
            raise SignalsShape(
                f"A dictionary's atoms must be a tensor [atoms, width], and a {type(self.atoms).__name__} was given."
            )
        if self.atoms.ndim != 2 or 0 in self.atoms.shape:
            raise SignalsShape(
                f"A dictionary's atoms have shape {list(self.atoms.shape)}, but must be [atoms, width], one atom a row."
            )
        if self.atoms.is_complex():
            raise SignalsShape("A dictionary's atoms are complex numbers: give real ones.")
        if not torch.isfinite(self.atoms).all():
            raise NotFinite("A dictionary's atoms hold NaN or infinite numbers: leave those atoms out.")
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
            raise NotFinite("A dictionary's bias holds NaN or infinite numbers: give finite ones, or none.")

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
        return self._kept("double", self._in_double)

    def _in_double(self) -> Dictionary:
        return Dictionary(self.atoms.detach().double(), None if self.bias is None else self.bias.detach().double())

    def _kept(self, name: str, compute: Callable[[], T]) -> T:
        # Beside the fields: frozen is about what the dictionary is. Under names of their own: a method's would hide it.
        version = tuple(-1 if t is None or t.is_inference() else t._version for t in (self.atoms, self.bias))
        at, value = self.__dict__.get(f"_kept_{name}", (None, None))
        if at != version:
            value = compute()
            self.__dict__[f"_kept_{name}"] = (version, value)
        return value

    def unit(self) -> Tensor:
        """[N, d] the atoms, each scaled to norm one (a zero atom stays zero)."""
        return unit_rows(self.atoms)

    def decode(self, code: Code) -> Tensor:
        """[n, d] the signals that `code` stands for: the sum of its atoms times its values, plus the bias."""
        if code.size != self.size:
            raise DictionaryMismatch(
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
    cosine = unit_rows(truth.double()) @ unit_rows(learned.double()).T  # [M, N]
    return float(cosine.amax(1).mean())
