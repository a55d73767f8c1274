"""Initialisation as a value: how a network's weights are drawn, and how their learning rates depend on its width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cloche.errors import ModelUnsupported, PartInvalid
from cloche.model.declare import Declared
from cloche.part import Part, positive

if TYPE_CHECKING:
    from cloche.model.network import Network

BRANCHES = 2  # per block: mix and map


class Initialisation(Part):
    """Base of initialisations. A subclass overrides `weights`.

    >>> from dataclasses import dataclass
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.model import Initialisation
    >>> @dataclass(frozen=True)
    ... class HalfOfIt(Initialisation):
    ...     def weights(self, normal, declared, net):
    ...         return 0.5 * super().weights(normal, declared, net)
    >>> net = LM(64, 32, Stack(1, Block(Attention(4), GLU()))).build(0, HalfOfIt())
    >>> round(net.embed.weight.std().item(), 1)
    0.5
    """

    def check(self, net: Network) -> None:
        """Raises ClocheError if it cannot initialise this network; called with one that has no memory for its weights, too."""

    def weights(self, normal: Tensor, declared: Declared, net: Network) -> Tensor:
        """The initial values of a parameter that is not constant, before its declared constant is added.

        normal: standard normal values in its shape, drawn for (seed, name). By default they are multiplied by the declared
        deviation. A matrix [rows, columns] may stack several (`declared.blocks`).
        """
        return declared.std * normal

    def rates(self, net: Network, powers: Mapping[str, float] | None, optimizer: str) -> dict[str, float]:
        """What the peak learning rate of each parameter is multiplied by; those left out keep theirs.

        powers: of the width, by role ("hidden", "head", "embedding", "vector"), at which the rates of this optimiser
        transfer; None if it does not say.
        """
        return {}


@dataclass(frozen=True)
class FanIn(Initialisation):
    """Every matrix keeps variance: deviation 1 / sqrt(columns), times the gain of the activation before it, and times
    1 / sqrt(2 depth) for those that write to the stream, so that all branches together add as much as the embeddings have.

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.model import FanIn
    >>> spec = LM(64, 32, Stack(1, Block(Attention(4), GLU())))
    >>> bool((spec.build(0, FanIn()).embed.weight == spec.build(0).embed.weight).all())
    True
    """


@dataclass(frozen=True)
class Xavier(Initialisation):
    """Variance 2 / (rows + columns) in place of 1 / columns, a compromise of the forward and the backward pass (Glorot & Bengio
    2010), with the gains and scaled branches of `FanIn`.

    >>> from cloche import LM, MLP, Attention, Block, Stack
    >>> from cloche.model import Xavier
    >>> net = LM(64, 32, Stack(1, Block(Attention(4), MLP("gelu", hidden=96)))).build(0, Xavier())
    >>> round(net.layers[0].map.inner.weight.std().item(), 3), (2 / (32 + 96)) ** 0.5
    (0.125, 0.125)
    """

    def weights(self, normal: Tensor, declared: Declared, net: Network) -> Tensor:
        values = super().weights(normal, declared, net)
        if declared.group != "matrix" or values.ndim != 2:
            return values
        columns = values.shape[1]
        parts = values.split(_rows(declared, values))
        return torch.cat([part * (2 * columns / (len(part) + columns)) ** 0.5 for part in parts])


@dataclass(frozen=True)
class Normal(Initialisation):
    """One deviation for all matrices and embeddings, as in GPT-2.

    scaled: divided by sqrt(2 depth) in the matrices that write to the stream.

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.model import Normal
    >>> net = LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(0, Normal(std=0.02))
    >>> [round(net.get_parameter(name).std().item(), 3) for name in ("embed.weight", "body.layers.0.map.outer.weight")]
    [0.021, 0.01]
    """

    std: float = 0.02
    scaled: bool = True

    def __post_init__(self) -> None:
        positive(self, std=self.std)

    def weights(self, normal: Tensor, declared: Declared, net: Network) -> Tensor:
        if declared.group == "vector":
            return super().weights(normal, declared, net)
        writes = self.scaled and declared.shard == "columns"  # what reads a branch's units and writes to the stream
        return normal * (self.std * (BRANCHES * len(net.layers)) ** (-0.5 if writes else 0.0))


@dataclass(frozen=True)
class Orthogonal(Initialisation):
    """Random matrices with orthonormal rows or columns (Saxe et al., 1312.6120), times what gives their entries the deviation
    of `FanIn`; q, k and v, and gate and up, each by themselves.

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.model import Orthogonal
    >>> net = LM(64, 32, Stack(1, Block(Attention(4), GLU()))).build(0, Orthogonal())
    >>> q = net.layers[0].mix.qkv.weight[:32]
    >>> bool((q @ q.T - q.square().sum() / 32 * q.new_ones(32).diag()).abs().max() < 1e-5)
    True
    """

    def weights(self, normal: Tensor, declared: Declared, net: Network) -> Tensor:
        if declared.group != "matrix" or normal.ndim != 2:
            return super().weights(normal, declared, net)
        return torch.cat([_orthogonal(part) * declared.std for part in normal.split(_rows(declared, normal))])


def _rows(declared: Declared, values: Tensor) -> list[int]:
    return list(declared.blocks.values()) or [len(values)]


def _orthogonal(normal: Tensor) -> Tensor:
    """A random matrix with orthonormal rows or columns, evenly distributed, scaled to entries of variance one."""
    tall = normal if normal.shape[0] >= normal.shape[1] else normal.T
    q, r = torch.linalg.qr(tall.double())
    q = q * r.diagonal().sign()
    return ((q if tall is normal else q.T) * max(normal.shape) ** 0.5).to(normal.dtype)


@dataclass(frozen=True)
class MuP(Initialisation):
    """`FanIn` with what makes the best learning rate the same at all widths (Yang et al., 2203.03466): at `base_width` it is
    FanIn itself; a head of larger width starts smaller by the root of their ratio, and the rates of its matrices fall with the
    width as its optimiser needs.

    Under AdamW, whose updates have one size per entry whatever the gradient, hidden matrices and the head learn at base_width
    / width times the rate (and decay as fast as before, 2405.13698). Under Muon nothing changes: the spectral norm of its
    updates is what transfers (2310.17813). Keep the size of a head and let their number grow with the width. Raises
    ModelUnsupported for a head that shares the embedding's matrix, PartInvalid for an optimiser that does not say how its
    rates depend on the width.

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.model import MuP
    >>> from cloche.train import AdamW, Muon
    >>> net = LM(64, 128, Stack(1, Block(Attention(4), GLU()))).build(0, MuP(base_width=32))
    >>> MuP(base_width=32).rates(net, AdamW.width_powers, "AdamW")["unembed.weight"]
    0.25
    >>> MuP(base_width=32).rates(net, Muon.width_powers, "Muon")
    {}
    """

    base_width: int = 64

    def __post_init__(self) -> None:
        positive(self, base_width=self.base_width)

    def check(self, net: Network) -> None:
        if net.spec.tied:
            raise ModelUnsupported(
                "MuP needs a head with a matrix of its own, which starts and learns at another scale than the embeddings: set "
                "model.tied = false, or another initialisation."
            )

    def weights(self, normal: Tensor, declared: Declared, net: Network) -> Tensor:
        values = super().weights(normal, declared, net)
        is_head = declared is net.unembed.declared["weight"]
        return values * (self.base_width / net.spec.width) ** 0.5 if is_head else values

    def rates(self, net: Network, powers: Mapping[str, float] | None, optimizer: str) -> dict[str, float]:
        if powers is None:
            raise PartInvalid(
                f"[initialisation] MuP transfers learning rates between widths, and {optimizer} does not say how its rates "
                "depend on the width; define its width_powers, or use AdamW or Muon."
            )
        ratio, found = net.spec.width / self.base_width, dict[str, float]()
        for kind, held in net.groups().items():
            for name, p in held:
                role = kind if kind != "matrix" else "head" if p is net.unembed_weight() else "hidden"
                if powers.get(role):
                    found[name] = ratio ** powers[role]
        return found
