"""Base of the fixed dictionaries: linear operators with adjoints, and coefficients in named bands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from cloche.errors import NotFinite, PartUnknown, SettingConflict, SettingRange, SignalsShape
from cloche.part import Part
from cloche.sparse.code import Code
from cloche.sparse.dictionary import Dictionary

_LARGEST_BATCH = 2**24  # coefficients processed at once


@dataclass(frozen=True)
class Band:
    """A block of coefficients of one kind: its `scale` (1 is the finest; 0 is never thresholded) and its shape.

    >>> import torch
    >>> from cloche.sparse.transforms import Wavelets
    >>> transform = Wavelets((16,), "haar", levels=2)
    >>> [(band.name, band.scale, band.shape) for band in transform.layout]
    [('coarse', 0, (4,)), ('detail/2', 2, (4,)), ('detail/1', 1, (8,))]
    """

    name: str
    shape: tuple[int, ...]
    scale: int

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, eq=False)
class Coefficients:
    """Coefficients of one or many signals: `flat` [*batch, size], and the same numbers as named bands.

    >>> import torch
    >>> from cloche.sparse.transforms import Wavelets
    >>> transform = Wavelets((16,), "haar", levels=2)
    >>> coefficients = transform.analyse(torch.arange(16.0))
    >>> list(coefficients.bands), int((coefficients.largest(3).flat != 0).sum())
    (['coarse', 'detail/2', 'detail/1'], 3)
    """

    flat: Tensor
    layout: tuple[Band, ...]

    def __post_init__(self) -> None:
        size = sum(band.size for band in self.layout)
        if self.flat.ndim == 0 or self.flat.shape[-1] != size:
            raise SignalsShape(
                f"Coefficients of shape {list(self.flat.shape)} do not fit bands of {size:,} in all: give [..., {size}]."
            )

    @property
    def bands(self) -> dict[str, Tensor]:
        """{name: [*batch, *shape]}: views of `flat`."""
        parts = self.flat.split([band.size for band in self.layout], dim=-1)
        return {
            band.name: part.reshape(*part.shape[:-1], *band.shape)
            for band, part in zip(self.layout, parts, strict=True)
        }

    def __getitem__(self, name: str) -> Tensor:
        found = self.bands.get(name)
        if found is None:
            names = ", ".join(band.name for band in self.layout)
            raise PartUnknown(f"There is no band {name!r}: use one of {names}.")
        return found

    def with_flat(self, flat: Tensor) -> Coefficients:
        """The same bands with other values."""
        return Coefficients(flat, self.layout)

    def hard(self, threshold: Tensor | float) -> Coefficients:
        """Hard thresholding: coefficients of magnitude at most `threshold` (a number, or one per coefficient) become zero."""
        return self.with_flat(torch.where(self.flat.abs() > threshold, self.flat, 0.0))

    def soft(self, threshold: Tensor | float) -> Coefficients:
        """Soft thresholding: all coefficients shrunk towards zero by `threshold`."""
        return self.with_flat(self.flat.sign() * (self.flat.abs() - threshold).clamp_min(0))

    def largest(self, m: int) -> Coefficients:
        """The m largest magnitudes of each signal; the others are zero."""
        kept = self.flat.abs().topk(_terms(m, self.flat.shape[-1]), dim=-1).indices
        return self.with_flat(torch.zeros_like(self.flat).scatter(-1, kept, self.flat.gather(-1, kept)))

    def code(self, m: int) -> Code:
        """The m largest magnitudes as a sparse Code, one row per signal."""
        rows = self.flat.reshape(-1, self.flat.shape[-1])
        kept = rows.abs().topk(_terms(m, rows.shape[1]), dim=1).indices
        return Code(kept, rows.gather(1, kept), rows.shape[1])


def _terms(m: int, size: int) -> int:
    if not 1 <= m <= size:
        raise SettingRange(f"{m:,} terms cannot be kept of {size:,} coefficients: choose between 1 and {size:,}.")
    return m


class Transform(Part, ABC):
    """A fixed dictionary as an operator: x = synthesise(analyse(x)), exactly, for signals of one `shape`.

    Transforms with equal settings are equal. Signals are [*shape] or [*batch, *shape], float32 or float64, on any device;
    both directions are linear and differentiable. Subclasses give `layout` and the underscored methods over one batch axis;
    the adjoints' defaults are those of a tight frame of bound one, where synthesis is the adjoint of analysis.

    >>> import torch
    >>> from cloche.sparse.transforms import Wavelets
    >>> transform = Wavelets((16,), "haar", levels=2)
    >>> x = torch.arange(16.0)
    >>> torch.allclose(transform.synthesise(transform.analyse(x)), x, atol=1e-4), transform.size
    (True, 16)
    >>> transform.dictionary().atoms.shape
    torch.Size([16, 16])
    """

    shape: tuple[int, ...]
    axes: ClassVar[tuple[int, ...]] = (2,)  # how many a signal may have
    renamed = {  # noqa: RUF012 (a ClassVar of Part)
        "wavelet": "Wavelets",
        "biorthogonal": "Wavelets(name='bior4.4')",
        "steerable": "SteerablePyramid",
        "curvelet": "Curvelets",
        "contourlet": "Contourlets",
        "bandlet": "Bandlets",
    }

    @classmethod
    def multiple(cls, settings: dict[str, Any]) -> int:
        """Numbers that the sides of a signal must be multiples of, given the other fields."""
        return 1

    @property
    @abstractmethod
    def layout(self) -> tuple[Band, ...]:
        """The bands, in the order of their coefficients."""

    @abstractmethod
    def _analyse(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _synthesise(self, flat: Tensor) -> Tensor: ...

    def _analyse_adjoint(self, flat: Tensor) -> Tensor:
        return self._synthesise(flat)

    def _synthesise_adjoint(self, x: Tensor) -> Tensor:
        return self._analyse(x)

    @property
    def size(self) -> int:
        """Number of atoms: coefficients per signal."""
        return sum(band.size for band in self.layout)

    @property
    def redundancy(self) -> float:
        """Coefficients per sample; one for a basis."""
        return self.size / prod(self.shape)

    def analyse(self, x: Tensor) -> Coefficients:
        """The coefficients of signals [*batch, *shape]."""
        return Coefficients(self._batched(self._analyse, self._checked(x), len(self.shape)), self.layout)

    def synthesise(self, coefficients: Coefficients | Tensor) -> Tensor:
        """The signals [*batch, *shape] that are the sums of the atoms times `coefficients`."""
        return self._batched(self._synthesise, self._flat(coefficients), 1)

    def analyse_adjoint(self, coefficients: Coefficients | Tensor) -> Tensor:
        """The adjoint of `analyse`: <analyse(x), c> = <x, analyse_adjoint(c)>."""
        return self._batched(self._analyse_adjoint, self._flat(coefficients), 1)

    def synthesise_adjoint(self, x: Tensor) -> Coefficients:
        """The adjoint of `synthesise`, D^T: the inner product of each atom with x, as pursuits need it."""
        return Coefficients(self._batched(self._synthesise_adjoint, self._checked(x), len(self.shape)), self.layout)

    def adapted(self, x: Tensor, threshold: float) -> Transform:
        """The transform of this family that is best for x [*shape] at `threshold`; itself if there is only one."""
        return self

    def atom(self, band: str, index: Sequence[int] | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """[*shape] one atom: the signal of a single coefficient of one. Without `index`, from the middle of the band."""
        return self._synthesise(self._one(band, index, dtype)[None])[0]

    def dictionary(self, dtype: torch.dtype = torch.float32) -> Dictionary:
        """All atoms as a dictionary of flattened unit signals: size * prod(shape) numbers, for small shapes."""
        atoms = self.synthesise(torch.eye(self.size, dtype=dtype)).reshape(self.size, -1)
        return Dictionary(F.normalize(atoms, dim=1))

    def noise_gains(self) -> dict[str, float]:
        """{band: standard deviation of its middle coefficient for unit white noise}. Cached."""
        return self._gains

    @cached_property
    def _gains(self) -> dict[str, float]:
        return {
            band.name: float(torch.linalg.vector_norm(self._analyse_adjoint(self._one(band.name, None)[None])))
            for band in self.layout
        }

    def each(self, amounts: dict[str, float], like: Tensor) -> Tensor:
        """[size] numbers per band, expanded to coefficients."""
        return torch.cat([like.new_full((band.size,), amounts[band.name]) for band in self.layout])

    def _one(self, name: str, index: Sequence[int] | None, dtype: torch.dtype = torch.float64) -> Tensor:
        coefficients = Coefficients(torch.zeros(self.size, dtype=dtype), self.layout)
        band = coefficients[name]
        at = tuple(n // 2 for n in band.shape) if index is None else tuple(index)
        if len(at) != band.ndim or not all(0 <= i < n for i, n in zip(at, band.shape, strict=True)):
            raise SignalsShape(f"Band {name!r} of shape {list(band.shape)} has no coefficient {list(at)}.")
        band[at] = 1.0
        return coefficients.flat

    def _flat(self, coefficients: Coefficients | Tensor) -> Tensor:
        flat = coefficients.flat if isinstance(coefficients, Coefficients) else coefficients
        return Coefficients(flat, self.layout).flat

    def _checked(self, x: Tensor) -> Tensor:
        if x.dtype not in (torch.float32, torch.float64):
            raise SignalsShape(f"A signal of {x.dtype} cannot be transformed: give float32 or float64.")
        if tuple(x.shape[-len(self.shape) :]) != self.shape:
            raise SignalsShape(
                f"A signal of shape {list(x.shape)} does not fit {type(self).__name__} made for {list(self.shape)}: make one "
                "for the signal's shape."
            )
        if not torch.isfinite(x).all():
            raise NotFinite("The signal has NaN or infinite numbers: fill them in or leave that part out.")
        return x

    def _batched(self, apply, given: Tensor, axes: int) -> Tensor:  # type: ignore[no-untyped-def]
        batch = given.shape[: given.ndim - axes]
        rows = given.reshape(-1, *given.shape[given.ndim - axes :])
        step = max(1, _LARGEST_BATCH // max(1, self.size))
        done = apply(rows) if len(rows) <= step else torch.cat([apply(piece) for piece in rows.split(step)])
        return done.reshape(*batch, *done.shape[1:])


def check_shape(family: str, shape: tuple[int, ...], axes: Sequence[int], multiple: int | tuple[int, ...] = 1) -> None:
    """Raises if a shape has another number of axes, or sides that are not multiples of `multiple`."""
    if len(shape) not in axes or any(not isinstance(n, int) or n < 2 for n in shape):
        kinds = " or ".join(f"{n}-D" for n in axes)
        raise SignalsShape(f"{family} of shape {list(shape)} cannot be made: give {kinds} signals, sides of 2 or more.")
    by = (multiple,) * len(shape) if isinstance(multiple, int) else multiple
    if any(n % m for n, m in zip(shape, by, strict=True)):
        up = [-(-n // m) * m for n, m in zip(shape, by, strict=True)]
        raise SettingConflict(
            f"{family} of these settings take sides that are multiples of {list(by)}, not {list(shape)}: pad the signal to "
            f"{up}, or take fewer levels."
        )
