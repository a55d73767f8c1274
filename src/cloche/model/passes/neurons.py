"""Hidden layers and their neurons: where they are in a network, and how some of them are removed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cloche.errors import ArgumentInvalid, ModelUnsupported
from cloche.model.bodies.stack import Stack


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


class Kept(NamedTuple):
    """The entries of a parameter that `keep_neurons` kept: of its `axis`, which had `size` entries, those at `indices`.

    >>> import torch
    >>> from cloche.model import GLU, LM, Attention, Block, Stack, keep_neurons
    >>> net = LM(64, 32, Stack(1, Block(Attention(4), GLU(hidden=6)))).build(seed=0)
    >>> keep_neurons(net, {"body.layers.0.map": torch.tensor([0, 4])})["body.layers.0.map.inner.weight"]
    Kept(axis=0, size=12, indices=tensor([ 0,  4,  6, 10]))
    """

    axis: int
    size: int
    indices: Tensor


@torch.no_grad()
def keep_neurons(net: nn.Module, neurons: Mapping[str, Tensor]) -> dict[str, Kept]:
    """Remove all but these neurons from hidden layers, in place: their rows of the inner matrix (of gate and up alike) and
    its bias, and their columns of the outer one. The parameters stay the objects that they were, with less in them.

    neurons: by the name of a layer (see `hidden_layers`), the indices of those that stay. A network's spec has the new
    size of each layer. Returns what was kept of each parameter that changed, for an optimiser's state.

    Raises ClocheError for a layer whose size the spec cannot say (of an expert, or in a body that is no Stack), and for one
    that no neuron would be left in.

    >>> import torch
    >>> from cloche.model import GLU, LM, Attention, Block, Stack, keep_neurons
    >>> net = LM(64, 32, Stack(2, Block(Attention(4), GLU(hidden=48)))).build(seed=0)
    >>> kept = keep_neurons(net, {"body.layers.0.map": torch.arange(40)})
    >>> [block.map.hidden for block in net.spec.body.blocks], net.run([[1, 2]], save="mlp_act[0]")["mlp_act[0]"].shape
    ([40, 48], torch.Size([1, 2, 40]))
    """
    layers = {layer.name: layer for layer in hidden_layers(net)}
    blocks = _blocks(net) if hasattr(net, "spec") else None
    kept: dict[str, Kept] = {}
    for name, indices in neurons.items():
        if name not in layers:
            raise ArgumentInvalid(
                f"{name} is no hidden layer of this network; there are {', '.join(layers) or 'none'}."
            )
        if blocks is not None and name not in blocks:
            raise ModelUnsupported(f"{name} is not the map of a block, and the model's spec could not say its size.")
        if not len(indices):
            raise ArgumentInvalid(f"No neuron would be left in {name}; keep at least one.")
        kept |= _shrink(layers[name], indices.to(layers[name].outer.weight.device))
    if blocks is not None:
        _update_spec(net, {blocks[name] for name in neurons}, layers)
    return kept


def _blocks(net: Any) -> dict[str, int]:
    """The index of the block whose map a hidden layer is, by the layer's name."""
    if type(net.spec.body) is not Stack:
        raise ModelUnsupported(
            f"Neurons are removed from a Stack, whose layers may differ in size, and this model has {net.spec.body}."
        )
    return {f"body.layers.{i}.map": i for i in range(len(net.layers))}


def _shrink(layer: HiddenLayer, indices: Tensor) -> dict[str, Kept]:
    size = layer.size
    rows = torch.cat([indices + gate * size for gate in range(layer.gates)])
    kept = {"inner.weight": Kept(0, layer.gates * size, rows), "outer.weight": Kept(1, size, indices)}
    if layer.inner.bias is not None:
        kept["inner.bias"] = kept["inner.weight"]
    for name, left in kept.items():
        parameter = layer.module.get_parameter(name)
        parameter.grad = None
        short = parameter.data.index_select(left.axis, left.indices)
        # A graph that is still alive holds the node that accumulates the gradient, which remembers the old shape; torch makes
        # a new one where the dtype changes.
        parameter.data = short.new_empty(0, dtype=torch.float16 if short.dtype != torch.float16 else torch.float32)
        parameter.data = short
    if isinstance(layer.inner, nn.Linear):
        layer.inner.out_features, layer.outer.in_features = len(rows), len(indices)
    module: Any = layer.module
    if hasattr(module, "resized"):
        module.resized()
    return {f"{layer.name}.{name}".removeprefix("."): left for name, left in kept.items()}


def _update_spec(net: Any, changed: set[int], layers: Mapping[str, HiddenLayer]) -> None:
    """Updates the spec, the blocks' parts and the sites to the new sizes of layers."""
    parts = [block.part for block in net.layers]
    for i in changed:
        hidden = layers[f"body.layers.{i}.map"].size
        parts[i] = dataclasses.replace(parts[i], map=dataclasses.replace(parts[i].map, hidden=hidden))
        net.layers[i].redescribed(parts[i])
    body = dataclasses.replace(net.spec.body, block=parts[0] if len(set(parts)) == 1 else tuple(parts))
    net.redescribed(dataclasses.replace(net.spec, body=body))
