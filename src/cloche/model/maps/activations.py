"""Activation functions by their usual names, and the gain that undoes each one's effect on variance."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cloche.errors import PartUnknown, SettingRange, shown
from cloche.part import Part

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}


@dataclass(frozen=True)
class Shifted(Part):
    """f(x - shift): with ReLU, a unit that stays silent until its input passes `shift`.

    >>> from cloche.model import GLU, Shifted
    >>> GLU(Shifted("relu", shift=0.5)).activation
    Shifted(activation='relu', shift=0.5)
    """

    activation: str = "relu"
    shift: float = 0.0

    def __post_init__(self) -> None:
        self.check_fields(type(self).__name__)
        activation(self.activation)
        if not abs(self.shift) <= MOST_SHIFT:
            raise SettingRange(
                f"Shifted(shift={shown(self.shift)}) must be a number of at most {MOST_SHIFT:,} in size."
            )
        if not second_moment(self) > FAINTEST:
            raise SettingRange(
                f"Shifted({self.activation!r}, shift={self.shift}) is zero for every input there is at birth; choose a "
                "smaller shift."
            )


MOST_SHIFT = 1_000_000  # what is shifted has a deviation of about one
FAINTEST = 1e-12  # second moment below which an activation says nothing that a matrix could make up for


def activation(which: str | Shifted) -> Callable[[Tensor], Tensor]:
    """The function of this name, or of this part; ClocheError lists the known names otherwise.

    >>> import torch
    >>> from cloche.model import activation
    >>> activation("relu")(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    if isinstance(which, Shifted):
        inner, shift = activation(which.activation), which.shift
        return lambda x: inner(x - shift)
    if not isinstance(which, str) or which not in ACTIVATIONS:
        raise PartUnknown(f"Unknown activation {shown(which)}; known are {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[which]


def secant(f: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, float]:
    """(y - f(0)) / x for y = f(x), elementwise, and f(0): y is the first times x plus the second.

    Next to 0 it is taken a little further out, where the difference is not rounded away.
    """
    if y is x:
        return x.new_ones(()), 0.0
    x, y = (each.to(torch.promote_types(x.dtype, torch.float32)) for each in (x, y))
    start, least = float(f(x.new_zeros(()))), torch.finfo(x.dtype).eps ** 0.5
    slope = (y - start if start else y) / x
    return slope.masked_fill_(x.abs() < least, (float(f(x.new_full((), least))) - start) / least), start


@functools.cache
def activation_range(which: str | Shifted) -> tuple[float, float]:
    """The least and the largest value that an activation can take; infinite where it has no bound.

    SiLU is at least -0.278 and GELU at least -0.170. A sigmoid is the first of two softmax shares, of x and of 0, and tanh
    a sigmoid of twice the input, stretched to -1 .. 1:

    >>> import torch
    >>> from cloche.model import activation_range
    >>> [tuple(round(bound, 3) for bound in activation_range(name)) for name in ("silu", "gelu", "tanh", "relu")]
    [(-0.278, inf), (-0.17, inf), (-1.0, 1.0), (0.0, inf)]
    >>> x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    >>> torch.allclose(x.sigmoid(), torch.stack([x, torch.zeros_like(x)]).softmax(0)[0], rtol=1e-14, atol=0)
    True
    >>> torch.allclose(x.tanh(), 2 * (2 * x).sigmoid() - 1, rtol=1e-12, atol=1e-15)
    True
    >>> torch.randn(5, 9).softmax(1).sum(1).allclose(torch.ones(5))  # one share grows at the cost of the others
    True
    """
    f, far = activation(which), torch.tensor([-FAR, -FAR / 2, FAR / 2, FAR], dtype=torch.float64)
    near = torch.linspace(-NEAR, NEAR, 200_001, dtype=torch.float64)
    ends, values = f(far), f(near)
    grows = [not torch.isclose(ends[a], ends[b], rtol=1e-6, atol=1e-6) for a, b in ((0, 1), (3, 2))]
    beyond = [float(ends[i].sign()) * float("inf") for i, unbounded in ((0, grows[0]), (3, grows[1])) if unbounded]
    found = [float(values.min()), float(values.max()), *beyond]
    return min(found), max(found)


NEAR, FAR = 20.0, 1e4  # where an activation turns, and where it does no more


@functools.cache
def second_moment(which: str | Shifted) -> float:
    """E[f(z)^2] for z standard normal, by Gauss-Hermite quadrature, so that any activation has one."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    values = activation(which)(torch.from_numpy(nodes)).numpy()
    return float((weights * values**2).sum() / np.sqrt(2 * np.pi))


def gain(which: str | Shifted) -> float:
    """1 / sqrt(E[f(z)^2]) for z standard normal: multiply the next layer's weights by it and variance is kept.

    ReLU: sqrt(2), He et al. 2015; SiLU: 1.677.

    >>> from cloche.model import gain
    >>> round(gain("relu"), 3), round(gain("silu"), 3)
    (1.414, 1.677)
    """
    return second_moment(which) ** -0.5
