"""Activation functions by their usual names, and the gain that undoes each one's effect on variance."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from glasshouse.errors import GlasshouseError

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


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function called `name`; GlasshouseError lists the known names otherwise."""
    if name not in ACTIVATIONS:
        raise GlasshouseError(f"Unknown activation {name!r}; known are {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


@functools.cache
def gain(name: str) -> float:
    """1 / sqrt(E[f(z)^2]) for z standard normal: multiply the next layer's weights by it and variance is kept.

    Computed by Gauss-Hermite quadrature, so any activation has one (ReLU: sqrt(2), He et al. 2015; SiLU: 1.677).
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    values = activation(name)(torch.from_numpy(nodes)).numpy()
    second_moment = float((weights * values**2).sum() / np.sqrt(2 * np.pi))
    return second_moment**-0.5
