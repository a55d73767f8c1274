"""Hidden layers and their neurons: where they are in a network, and how some of them are removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class HiddenLayer:
    """A hidden layer of neurons: a module whose `inner` matrix feeds each neuron and whose `outer` matrix reads it.

    gates: how many rows of `inner` belong to a neuron (a gated unit has two, of gate and up, in separate blocks of rows).

    >>> from cloche.model import GLU, LM, Attention, Block, Stack, hidden_layers
    >>> net = LM(64, 32, Stack(2, Block(Attention(4), GLU(hidden=48)))).build(seed=0)
    >>> [(layer.name, layer.size, layer.gates) for layer in hidden_layers(net)]
    [('body.layers.0.map', 48, 2), ('body.layers.1.map', 48, 2)]
    """

    name: str
    module: nn.Module
    gates: int

    @property
    def inner(self) -> Any:
        return self.module.inner

    @property
    def outer(self) -> Any:
        return self.module.outer

    @property
    def size(self) -> int:
        """Number of neurons."""
        return int(self.outer.weight.shape[1])

    def norms(self) -> Tensor:
        """Norm of each neuron's column of the outer matrix: [neuron]."""
        return self.outer.weight.norm(dim=0)


def hidden_layers(net: nn.Module) -> list[HiddenLayer]:
    """Every module of the network with linear maps `inner` and `outer`, and a hidden layer between them: an MLP or a gated
    one, an expert of a mixture, or such a module of any other network.

    >>> import torch
    >>> from cloche.model import hidden_layers
    >>> class Regression(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.inner, self.outer = torch.nn.Linear(3, 16), torch.nn.Linear(16, 1)
    ...     def forward(self, x):
    ...         return self.outer(self.inner(x).relu())
    >>> [layer.size for layer in hidden_layers(Regression())]
    [16]
    """
    found = []
    for name, module in net.named_modules():
        inner, outer = getattr(module, "inner", None), getattr(module, "outer", None)
        shapes = [tuple(getattr(getattr(each, "weight", None), "shape", ())) for each in (inner, outer)]
        if all(len(shape) == 2 for shape in shapes) and shapes[0][0] % shapes[1][1] == 0:
            found.append(HiddenLayer(name, module, shapes[0][0] // shapes[1][1]))
    return found
