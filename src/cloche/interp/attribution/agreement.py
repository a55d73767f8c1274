"""How well estimates of effects agree with the effects themselves."""

from __future__ import annotations

from torch import Tensor

LARGE = 0.1  # share of the largest reference value from which one counts as large


def pearson(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation; 0 where either does not vary."""
    a, b = a - a.mean(), b - b.mean()
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size > 0 else 0.0


def sign_errors(reference: Tensor, other: Tensor) -> float:
    """Share of the large values of `reference` where `other` has the other sign or is 0; 0 where none is large."""
    large = (reference.abs() >= LARGE * reference.abs().max()) & (reference != 0)
    return float((reference[large].sign() != other[large].sign()).double().mean()) if bool(large.any()) else 0.0
