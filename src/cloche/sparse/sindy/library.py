"""Libraries of candidate terms: functions of the state that an equation of motion may contain."""

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
_STEP = 1e-4  # of a variable's spread: the step of a numerical derivative, far above rounding and small against any curvature
_STILL = 1e-6  # of a variable's magnitude: its least spread, for variables that hardly change


class Library(Part, ABC):
    """Functions of the variables, which are the states followed by the inputs; libraries are joined with +.

    A library is a value. Its arrays have one column per term, in the order of `names`.

    >>> import numpy as np
    >>> from cloche.sparse.sindy import Fourier, Library, Polynomials
    >>> library = Polynomials(1) + Fourier(1)
    >>> isinstance(library, Library), library.names(["x"])
    (True, ['1', 'x', 'sin(x)', 'cos(x)'])
    >>> library.values(np.array([[0.0], [2.0]])).round(2).tolist()
    [[1.0, 0.0, 0.0, 1.0], [1.0, 2.0, 0.91, -0.42]]
    """

    @abstractmethod
    def names(self, variables: Sequence[str]) -> list[str]:
        """Name of each term, given the names of the variables."""

    @abstractmethod
    def values(self, x: Array) -> Array:
        """[n, terms] the terms at the points x [n, variables]."""

    def unbiased(self, x: Array, noise: Array) -> Array:
        """[n, terms] functions whose mean over Gaussian noise of x is the term at the clean point.

        `noise` [variables] is the standard deviation of the noise. By default to second order: f - 1/2 sum_s noise_s^2 d^2
        f / dx_s^2, with the derivative taken over a step of one standard deviation. Libraries with an exact form override
        this.
        """
        here = self.values(x)
        total = here.copy()
        for s in np.flatnonzero(noise > 0):
            step = np.zeros(x.shape[1])
            step[s] = noise[s]
            total -= 0.5 * (self.values(x + step) + self.values(x - step) - 2 * here)
        return total

    def gradient(self, x: Array) -> Array:
        """[variables, n, terms] derivative of each term in each variable; by default by central differences."""
        size = np.maximum(np.maximum(x.std(0), _STILL * np.abs(x).max(0)), np.finfo(float).tiny)
        slopes = []
        for s in range(x.shape[1]):
            step = np.zeros(x.shape[1])
            step[s] = _STEP * size[s]
            slopes.append((self.values(x + step) - self.values(x - step)) / (2 * step[s]))
        return np.stack(slopes)

    def centred(self, centre: Array, scale: Array) -> tuple[Library, Array]:
        """(a better conditioned basis, the matrix [basis, terms] that gives the terms from it).

        `centre` and `scale` [variables] are the mean and spread of the series. Far from the origin the powers of a variable
        are nearly the same function (300 K plus or minus one), and arithmetic on them loses all digits; powers of (v -
        centre) / scale span the same space. A library without such a basis returns itself.
        """
        count = len(self.names([f"v{i}" for i in range(len(centre))]))
        return self, np.eye(count)

    def __add__(self, other: Library) -> Sum:
        return Sum((*_parts(self), *_parts(other)))


def _parts(library: Library) -> tuple[Library, ...]:
    return library.parts if isinstance(library, Sum) else (library,)


@dataclass(frozen=True)
class Sum(Library):
    """The terms of several libraries, one after the other; `a + b` makes one.

    >>> from cloche.sparse.sindy import Fourier, Polynomials, Sum
    >>> Sum((Polynomials(1), Fourier(1, of=(1,)))).names(["x", "angle"])
    ['1', 'x', 'angle', 'sin(angle)', 'cos(angle)']
    """

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
    """The library's terms with (v - centre) / scale in place of v."""

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
    """All monomials of the variables up to `degree`; without the constant if `constant` is false.

    The unbiased forms are exact: the mean over Gaussian noise of a Hermite polynomial of variance noise^2 is the power.

    >>> from cloche.sparse.sindy import Polynomials
    >>> Polynomials(2).names(["x", "y"])
    ['1', 'x', 'y', 'x^2', 'x y', 'y^2']
    """

    degree: int = 2
    constant: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.degree <= 9:
            raise SettingRange(f"Polynomials of degree {self.degree} are not supported: choose a degree from 0 to 9.")
        if self.degree == 0 and not self.constant:
            raise SettingConflict(
                "Polynomials of degree 0 without the constant have no terms: choose a degree above 0."
            )

    def exponents(self, variables: int) -> Array:
        """[terms, variables] exponent of each variable in each monomial, low degrees first."""
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
        """(c + s z)^a = sum over b of (a choose b) c^(a-b) s^b z^b, with one such factor per variable."""
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
    """[n, terms] the product over the variables of their powers, for each row of exponents."""
    out = np.ones((len(powers[0]), len(exponents)))
    for s in range(exponents.shape[1]):
        for power in range(1, int(exponents[:, s].max(initial=0)) + 1):
            columns = np.flatnonzero(exponents[:, s] == power)
            out[:, columns] *= powers[power][:, s : s + 1]
    return out


@dataclass(frozen=True)
class Fourier(Library):
    """sin(k v) and cos(k v) of each variable v (or of those in `of`, by index), for k = 1 ... `frequencies`.

    The unbiased forms are exact: noise multiplies the mean of sin(k v) by exp(-k^2 noise^2 / 2), which is divided out.

    >>> from cloche.sparse.sindy import Fourier
    >>> Fourier(2).names(["x"])
    ['sin(x)', 'cos(x)', 'sin(2 x)', 'cos(2 x)']
    """

    frequencies: int = 1
    of: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.frequencies < 1:
            raise SettingRange(f"Fourier terms need at least one frequency, not {self.frequencies}: choose 1 or more.")

    def _chosen(self, variables: int) -> list[int]:
        chosen = list(range(variables)) if self.of is None else list(self.of)
        if any(not 0 <= v < variables for v in chosen):
            raise SettingInvalid(
                f"Fourier terms of the variables {chosen} do not fit {variables} variables: choose indices "
                f"from 0 to {variables - 1}."
            )
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
                grow = np.exp(min((k * noise[v]) ** 2 / 2, 2.0))  # with more noise the waves are lost in it
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
    """Each term of `left` times each term of `right`.

    >>> from cloche.sparse.sindy import Fourier, Polynomials, Products
    >>> Products(Polynomials(1), Fourier(1, of=(0,))).names(["x", "y"])
    ['sin(x)', 'cos(x)', 'x sin(x)', 'x cos(x)', 'y sin(x)', 'y cos(x)']
    """

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
    """User-defined functions: each takes the variables as columns, f(x, y, ...), and returns one column.

    `labels` has a name for each, in which {0}, {1}, ... are replaced with the names of the variables.

    >>> import numpy as np
    >>> from cloche.sparse.sindy import Custom
    >>> library = Custom((lambda x, y: np.tanh(x - y),), ("tanh({0} - {1})",))
    >>> library.names(["a", "b"]), library.values(np.array([[1.0, 1.0]])).tolist()
    (['tanh(a - b)'], [[0.0]])
    """

    functions: tuple[Callable[..., Array], ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.functions or len(self.functions) != len(self.labels):
            raise SettingConflict(
                f"Custom has {len(self.functions)} functions and {len(self.labels)} labels: give each function one label."
            )

    def names(self, variables: Sequence[str]) -> list[str]:
        return [label.format(*variables) for label in self.labels]

    def values(self, x: Array) -> Array:
        columns = [np.broadcast_to(np.asarray(f(*x.T), dtype=float), len(x)) for f in self.functions]
        return np.stack(columns, 1)


def term_count(variables: int, degree: int) -> int:
    """Number of monomials of so many variables up to a degree, including the constant."""
    return factorial(variables + degree) // (factorial(variables) * factorial(degree))
