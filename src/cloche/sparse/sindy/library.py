"""Libraries of terms: the functions of the state that an equation of motion may be made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import comb, factorial

import numpy as np
from scipy.linalg import block_diag

from cloche.errors import SettingConflict, SettingInvalid, SettingRange
from cloche.part import Part

Array = np.ndarray
_STEP = 1e-4  # of a variable's spread: the step of a numerical derivative, far above rounding and below any curvature
_STILL = 1e-6  # of a variable's size: what counts as its spread where it hardly moves


class Library(Part, ABC):
    """Functions of the variables, which are the states and after them the inputs; libraries add up with +.

    A library is a value. What it gives has one column a term, in the order of `names`.
    """

    @abstractmethod
    def names(self, variables: Sequence[str]) -> list[str]:
        """What each term is called, given what the variables are called."""

    @abstractmethod
    def values(self, x: Array) -> Array:
        """[n, terms] the terms at the points x [n, variables]."""

    def unbiased(self, x: Array, noise: Array) -> Array:
        """[n, terms] functions whose mean over Gaussian noise of x is the term at the clean point.

        `noise` [variables] is the noise's standard deviation. Here to second order: f - 1/2 sum_s noise_s^2 d^2 f / dx_s^2, the
        derivative taken over a step of one standard deviation. A library that knows better says so.
        """
        here = self.values(x)
        total = here.copy()
        for s in np.flatnonzero(noise > 0):
            step = np.zeros(x.shape[1])
            step[s] = noise[s]
            total -= 0.5 * (self.values(x + step) + self.values(x - step) - 2 * here)
        return total

    def gradient(self, x: Array) -> Array:
        """[variables, n, terms] the derivative of each term in each variable, by central differences unless known."""
        size = np.maximum(np.maximum(x.std(0), _STILL * np.abs(x).max(0)), np.finfo(float).tiny)
        slopes = []
        for s in range(x.shape[1]):
            step = np.zeros(x.shape[1])
            step[s] = _STEP * size[s]
            slopes.append((self.values(x + step) - self.values(x - step)) / (2 * step[s]))
        return np.stack(slopes)

    def centred(self, centre: Array, scale: Array) -> tuple[Library, Array]:
        """(a basis whose functions overlap less, the matrix [basis, terms] that makes the terms of it).

        `centre` and `scale` [variables] are where the series lie and how far they spread. Far from the origin the powers of a
        variable are nearly the same function (300 K give or take one), and arithmetic on them loses all digits; powers of
        (v - centre) / scale span the same. A library without such a basis is its own.
        """
        count = len(self.names([f"v{i}" for i in range(len(centre))]))
        return self, np.eye(count)

    def __add__(self, other: Library) -> Sum:
        return Sum((*_parts(self), *_parts(other)))


def _parts(library: Library) -> tuple[Library, ...]:
    return library.parts if isinstance(library, Sum) else (library,)


@dataclass(frozen=True)
class Sum(Library):
    """The terms of several libraries, one after the other."""

    parts: tuple[Library, ...]

    def names(self, variables: Sequence[str]) -> list[str]:
        return [name for part in self.parts for name in part.names(variables)]

    def values(self, x: Array) -> Array:
        return np.concatenate([part.values(x) for part in self.parts], 1)

    def unbiased(self, x: Array, noise: Array) -> Array:
        return np.concatenate([part.unbiased(x, noise) for part in self.parts], 1)

    def gradient(self, x: Array) -> Array:
        return np.concatenate([part.gradient(x) for part in self.parts], 2)

    def centred(self, centre: Array, scale: Array) -> tuple[Library, Array]:
        bases, matrices = zip(*(part.centred(centre, scale) for part in self.parts), strict=True)
        return Sum(bases), block_diag(*matrices)


@dataclass(frozen=True)
class _Shifted(Library):
    """The library's terms of (v - centre) / scale in place of v."""

    library: Library
    centre: Array
    scale: Array

    def names(self, variables: Sequence[str]) -> list[str]:
        return self.library.names([f"({v})" for v in variables])

    def values(self, x: Array) -> Array:
        return self.library.values((x - self.centre) / self.scale)

    def unbiased(self, x: Array, noise: Array) -> Array:
        return self.library.unbiased((x - self.centre) / self.scale, noise / self.scale)

    def gradient(self, x: Array) -> Array:
        return self.library.gradient((x - self.centre) / self.scale) / self.scale[:, None, None]


@dataclass(frozen=True)
class Polynomials(Library):
    """All monomials of the variables up to `degree`, with the constant unless `constant` is false.

    Their unbiased forms are exact: the mean of a Hermite polynomial of variance noise^2 over Gaussian noise is the power.
    """

    degree: int = 2
    constant: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.degree <= 9:
            raise SettingRange(f"Polynomials of degree {self.degree} are not offered: choose a degree from 0 to 9.")
        if self.degree == 0 and not self.constant:
            raise SettingConflict(
                "Polynomials of degree 0 without their constant hold no term: choose a degree above 0."
            )

    def exponents(self, variables: int) -> Array:
        """[terms, variables] the powers in each monomial, low degrees first."""
        rows = []
        for degree in range(0 if self.constant else 1, self.degree + 1):
            for chosen in combinations_with_replacement(range(variables), degree):
                rows.append(np.bincount(np.array(chosen, dtype=int), minlength=variables))
        return np.array(rows)

    def names(self, variables: Sequence[str]) -> list[str]:
        return [
            " ".join(v if power == 1 else f"{v}^{power}" for v, power in zip(variables, row, strict=True) if power)
            or "1"
            for row in self.exponents(len(variables)).tolist()
        ]

    def values(self, x: Array) -> Array:
        return self.unbiased(x, np.zeros(x.shape[1]))

    def unbiased(self, x: Array, noise: Array) -> Array:
        return _products(_hermite(x, noise, self.degree), self.exponents(x.shape[1]))

    def gradient(self, x: Array) -> Array:
        powers, exponents = _hermite(x, np.zeros(x.shape[1]), self.degree), self.exponents(x.shape[1])
        slopes = []
        for s in range(x.shape[1]):
            lower = exponents.copy()
            lower[:, s] = np.maximum(lower[:, s] - 1, 0)
            slopes.append(_products(powers, lower) * exponents[:, s])
        return np.stack(slopes)

    def centred(self, centre: Array, scale: Array) -> tuple[Library, Array]:
        """(c + s z)^a = sum over b of (a choose b) c^(a-b) s^b z^b, one such factor for each variable."""
        basis = Polynomials(self.degree)
        low, high = basis.exponents(len(centre)), self.exponents(len(centre))
        matrix = np.ones((len(low), len(high)))
        for v, (c, s) in enumerate(zip(centre.tolist(), scale.tolist(), strict=True)):
            powers = [
                [comb(a, b) * c ** (a - b) * s**b if b <= a else 0.0 for a in range(self.degree + 1)]
                for b in range(self.degree + 1)
            ]
            matrix *= np.array(powers)[low[:, v][:, None], high[:, v][None, :]]
        return _Shifted(basis, centre, scale), matrix


def _hermite(x: Array, noise: Array, degree: int) -> list[Array]:
    """Hermite polynomials of variance noise^2, [n, variables] for each degree: H_(k+1) = x H_k - k noise^2 H_(k-1)."""
    found = [np.ones_like(x), x]
    for k in range(1, degree):
        found.append(x * found[k] - k * noise**2 * found[k - 1])
    return found


def _products(powers: list[Array], exponents: Array) -> Array:
    """[n, terms] for each row of exponents the product over the variables of their powers."""
    out = np.ones((len(powers[0]), len(exponents)))
    for s in range(exponents.shape[1]):
        for power in range(1, int(exponents[:, s].max(initial=0)) + 1):
            columns = np.flatnonzero(exponents[:, s] == power)
            out[:, columns] *= powers[power][:, s : s + 1]
    return out


@dataclass(frozen=True)
class Fourier(Library):
    """sin(k v) and cos(k v) of each variable v (or of those in `of`, by index), for k = 1 ... `frequencies`.

    Unbiased forms are exact: noise shrinks the mean of sin(k v) by exp(-k^2 noise^2 / 2), which is divided out.
    """

    frequencies: int = 1
    of: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.frequencies < 1:
            raise SettingRange(f"Fourier terms of {self.frequencies} frequencies are none: ask for at least one.")

    def _chosen(self, variables: int) -> list[int]:
        chosen = list(range(variables)) if self.of is None else list(self.of)
        if any(not 0 <= v < variables for v in chosen):
            raise SettingInvalid(f"Fourier terms of the variables {chosen} need more than the {variables} there are.")
        return chosen

    def names(self, variables: Sequence[str]) -> list[str]:
        return [
            f"{f}({variables[v]})" if k == 1 else f"{f}({k} {variables[v]})"
            for v in self._chosen(len(variables))
            for k in range(1, self.frequencies + 1)
            for f in ("sin", "cos")
        ]

    def values(self, x: Array) -> Array:
        return self.unbiased(x, np.zeros(x.shape[1]))

    def unbiased(self, x: Array, noise: Array) -> Array:
        columns = []
        for v in self._chosen(x.shape[1]):
            for k in range(1, self.frequencies + 1):
                grow = np.exp(min((k * noise[v]) ** 2 / 2, 2.0))  # beyond that the waves are lost in the noise
                columns += [grow * np.sin(k * x[:, v]), grow * np.cos(k * x[:, v])]
        return np.stack(columns, 1)

    def gradient(self, x: Array) -> Array:
        chosen = self._chosen(x.shape[1])
        out = np.zeros((x.shape[1], len(x), 2 * self.frequencies * len(chosen)))
        for i, v in enumerate(chosen):
            for k in range(1, self.frequencies + 1):
                at = 2 * (i * self.frequencies + k - 1)
                out[v, :, at], out[v, :, at + 1] = k * np.cos(k * x[:, v]), -k * np.sin(k * x[:, v])
        return out


@dataclass(frozen=True)
class Products(Library):
    """Each term of `left` times each term of `right`."""

    left: Library
    right: Library

    def names(self, variables: Sequence[str]) -> list[str]:
        left, right = self.left.names(variables), self.right.names(variables)
        return [" ".join(name for name in (a, b) if name != "1") or "1" for a in left for b in right]

    def values(self, x: Array) -> Array:
        return (self.left.values(x)[:, :, None] * self.right.values(x)[:, None, :]).reshape(len(x), -1)

    def centred(self, centre: Array, scale: Array) -> tuple[Library, Array]:
        (left, first), (right, second) = self.left.centred(centre, scale), self.right.centred(centre, scale)
        return Products(left, right), np.kron(first, second)


@dataclass(frozen=True)
class Custom(Library):
    """Functions of your own: each takes the variables as columns, f(x, y, ...), and gives one column.

    `labels` holds a name for each, in which {0}, {1}, ... stand for the variables' names.
    """

    functions: tuple[Callable[..., Array], ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.functions or len(self.functions) != len(self.labels):
            raise SettingConflict(
                f"Custom has {len(self.functions)} functions and {len(self.labels)} labels: give each function its label."
            )

    def names(self, variables: Sequence[str]) -> list[str]:
        return [label.format(*variables) for label in self.labels]

    def values(self, x: Array) -> Array:
        columns = [np.broadcast_to(np.asarray(f(*x.T), dtype=float), len(x)) for f in self.functions]
        return np.stack(columns, 1)


def term_count(variables: int, degree: int) -> int:
    """How many monomials of that many variables there are up to a degree, the constant included."""
    return factorial(variables + degree) // (factorial(variables) * factorial(degree))
