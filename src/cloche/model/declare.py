"""Declarations beside each parameter: initialisation, optimiser group, row blocks, shard axis; and the sites of a
module.

Weight decay groups, Muon's matrices, variance-stable initialisation and tensor-parallel plans are derived from these
declarations, not listed by hand.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cloche.errors import ModelUnsupported, PartInvalid
from cloche.model.feedback import linear
from cloche.model.sites.declared import Declarations, DeclaredSite, check_declared

Group = Literal["matrix", "embedding", "vector"]
Shard = Literal["rows", "columns"]


@dataclass(frozen=True)
class Declared:
    """One parameter's declaration.

    std, constant: its initial value is `constant + std * normal`.
    group: "matrix" (a linear map; weight decay, Muon), "embedding" (rows are looked up), "vector" (gains and biases).
    blocks: named row counts of matrices that share one tensor (q, k and v), in order; empty for a single matrix.
    shard: the axis that tensor parallelism splits, None if every rank keeps all of it.

    >>> from cloche.model import Declared
    >>> Declared(std=0.02, group="embedding").constant
    0.0
    """

    std: float = 0.0
    constant: float = 0.0
    group: Group = "matrix"
    blocks: dict[str, int] = field(default_factory=dict)
    shard: Shard | None = None


class Module(nn.Module):
    """An nn.Module that declares its own parameters and sites.

    `frozen`, where it is defined, gives the output of `forward` and the adjoint of the linear map that the module is with
    patterns, norm scales and slopes of activations held fixed: a function from cotangents of the output, [cotangent, *shape],
    to those of the input. Of a norm or a head it is frozen(x), and the adjoint takes the cotangents; of a mixer, map or block
    frozen(x, context, layer, gates), and the adjoint takes the cotangents and a recorder, to which it offers those of the
    module's sites in the order of the backward pass, to continue with what that returns. gates: see `FrozenModel`.

    >>> from cloche.model import Declared, Module
    >>> class Gain(Module):
    ...     def __init__(self, width):
    ...         super().__init__()
    ...         self.declare("weight", (width,), Declared(constant=1.0, group="vector"))
    ...     def forward(self, x):
    ...         return x * self.weight
    >>> [name for name, _ in Gain(4).named_parameters()]
    ['weight']
    """

    frozen: Any = None

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        if "forward" in cls.__dict__ and "frozen" not in cls.__dict__:
            cls.frozen = None  # its base's is not of what it computes

    def __init__(self) -> None:
        super().__init__()
        self.declared: dict[str, Declared] = {}
        self.declared_sites: Declarations = {}

    def declare(self, name: str, shape: tuple[int, ...], declared: Declared) -> nn.Parameter:
        """Register an uninitialised parameter `name` with its declaration."""
        parameter = nn.Parameter(torch.empty(shape))
        self.register_parameter(name, parameter)
        self.declared[name] = declared
        return parameter

    def declare_site(self, name: str, declared: DeclaredSite) -> None:
        """Declare that this module offers the site `name` to `context.record`; call in the order of the pass."""
        check_declared(name, declared, type(self).__name__.strip("_"))
        self.declared_sites[name] = declared


class Linear(Module):
    """y = x W^T + b with W [rows, width]; `std` is the standard deviation of W's initial entries.

    feedback: None, or a matrix of W's shape by which the backward pass multiplies the gradient of y instead of W, to give
    that of x (see `with_feedback`).

    `watch(x, parts)`, where it is set, is called with the input and the parts of y of every product, before they are used.

    >>> from cloche.model import Linear
    >>> layer = Linear(32, 48, std=0.02, blocks={"q": 32, "kv": 16})
    >>> layer.weight.shape
    torch.Size([48, 32])
    """

    watch: Callable[[Tensor, Sequence[Tensor]], None] | None = None
    feedback: Tensor | None = None

    def __init__(
        self,
        width: int,
        rows: int,
        std: float,
        bias: bool = False,
        blocks: dict[str, int] | None = None,
        shard: Shard | None = None,
    ) -> None:
        super().__init__()
        self.weight = self.declare("weight", (rows, width), Declared(std=std, blocks=blocks or {}, shard=shard))
        shard_bias: Shard | None = (
            "rows" if shard == "rows" else None
        )  # split by columns, every rank adds to the same sum
        kind = Declared(group="vector", blocks=blocks or {}, shard=shard_bias)
        self.bias = self.declare("bias", (rows,), kind) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = linear(x, self.weight, self.bias, self.feedback)
        if self.watch is not None:
            self.watch(x, [y])
        return y

    def transposed(self, y: Tensor) -> Tensor:
        """y W, without the bias: [..., width] from [..., rows]."""
        return y @ self.weight.to(y.dtype)

    def split(self, x: Tensor, rows: list[int]) -> Sequence[Tensor]:
        """y split into the parts of `rows` consecutive rows of W: [..., rows[i]].

        If gradients are needed, each part is a product of its own: parts of one product are strided views, whose
        gradients would have to be concatenated (docs/log.md). Otherwise a single product takes fewer calls.
        """
        if not torch.is_grad_enabled():
            return self(x).split(rows, -1)
        none = [None] * len(rows)
        biases, back = (none if each is None else each.split(rows) for each in (self.bias, self.feedback))
        parts = [linear(x, *part) for part in zip(self.weight.split(rows), biases, back, strict=True)]
        if self.watch is not None:
            self.watch(x, parts)
        return parts


def freeze(module: nn.Module, *arguments: Any) -> Any:
    """The output and the adjoint of a module as a linear map (see `Module`).

    Raises ModelUnsupported if it does not define `frozen`.

    >>> import torch
    >>> from cloche.model import Module, freeze
    >>> class LargestNorm(Module):
    ...     def forward(self, x):
    ...         return x / x.abs().amax(-1, keepdim=True)
    ...     def frozen(self, x):
    ...         scale = x.abs().amax(-1, keepdim=True)
    ...         return x / scale, lambda dy: dy / scale
    >>> y, adjoint = freeze(LargestNorm(), torch.tensor([2.0, 4.0]))
    >>> y, adjoint(torch.eye(2))
    (tensor([0.5000, 1.0000]), tensor([[0.2500, 0.0000],
            [0.0000, 0.2500]]))
    """
    if getattr(module, "frozen", None) is None:
        raise ModelUnsupported(
            f"{type(module).__name__.strip('_')} does not say what of it is held fixed in a linear model; define `frozen` in "
            "its module, as described at cloche.model.Module."
        )
    return module.frozen(*arguments)  # type: ignore[operator]


def declarations(module: nn.Module) -> dict[str, Declared]:
    """Every parameter's declaration by its full name. Raises PartInvalid for one that its part did not declare."""
    found = {
        f"{prefix}.{name}" if prefix else name: declared
        for prefix, sub in module.named_modules()
        if isinstance(sub, Module)
        for name, declared in sub.declared.items()
    }
    undeclared = [name for name, _ in module.named_parameters() if name not in found]
    if undeclared:
        owner = module.get_submodule(undeclared[0].rpartition(".")[0])
        raise PartInvalid(
            f"The parameter {undeclared[0]} of {type(owner).__name__} is not declared, so nothing says how it is initialised "
            "and optimised; make it with self.declare(name, shape, Declared(...)) in a cloche.model.Module."
        )
    return found


def groups(module: nn.Module) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Parameters by declared group: "matrix", "embedding" and "vector", each a list of (name, parameter)."""
    declared = declarations(module)
    found: dict[str, list[tuple[str, nn.Parameter]]] = {"matrix": [], "embedding": [], "vector": []}
    for name, parameter in module.named_parameters():
        found[declared[name].group].append((name, parameter))
    return found


def matrix_weights(module: nn.Module, without: Collection[int] = ()) -> int:
    """The number of entries in a module's matrices; `without`: ids of parameters to leave out."""
    return sum(p.numel() for _, p in groups(module)["matrix"] if id(p) not in without)


def row_blocks(module: nn.Module, name: str) -> list[tuple[int, int]]:
    """Row ranges (first, past the last) of the matrices that share the parameter `name`: q, k and v, gate and up."""
    declared, rows = declarations(module)[name], module.get_parameter(name).shape[0]
    ends = list(itertools.accumulate(declared.blocks.values(), initial=0))
    return list(itertools.pairwise(ends)) or [(0, rows)]


Weights = Callable[[Tensor, Declared], Tensor]  # initial values from standard normal ones and a declaration


@torch.no_grad()
def initialise(module: nn.Module, seed: int, weights: Weights | None = None) -> None:
    """Fill every parameter from its declaration. weights: of those that are not constant, std * normal by default.

    Each is drawn from its own generator, seeded by (seed, name): two models that share a parameter's name, shape and
    seed share its initial value, whatever else differs between them.
    """
    declared = declarations(module)
    for name, parameter in module.named_parameters():
        rule = declared[name]
        if rule.std:
            digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
            values = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(rule.constant + (rule.std * values if weights is None else weights(values, rule)))
        else:
            parameter.fill_(rule.constant)
