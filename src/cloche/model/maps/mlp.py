"""What a block does to each position alone: MLP and gated MLP."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor

from cloche.model.context import Context
from cloche.model.declare import Linear, Module
from cloche.model.maps.activations import Shifted, activation, gain, secant
from cloche.model.sites.declared import each_token
from cloche.model.sites.recorder import Adjoint, Recorder
from cloche.part import Part, positive

if TYPE_CHECKING:
    from cloche.model.sites.proof import Proof


Gates = Literal["half", "fixed"]  # how a linear model shares a gate's product: half each, or the gate is held fixed


class Map(Part):
    """A position-wise map.

    `build(width, std)` gives a module whose forward takes (x, context, layer) and returns the update and its auxiliary
    losses by name. `std` is the standard deviation wanted of the update. `prove(x, proof)` says what its sites are, from the
    map's fields and weights alone, and returns the update (see `sites.proof`).

    >>> from dataclasses import dataclass
    >>> from cloche import LM, Attention, Block, Stack
    >>> from cloche.model import Linear, Map
    >>> @dataclass(frozen=True)
    ... class OneMatrix(Map):
    ...     def build(self, width, std):
    ...         return Inner(width, width, std)
    >>> class Inner(Linear):
    ...     def forward(self, x, context, layer):
    ...         return super().forward(x), {}
    >>> LM(64, 32, Stack(2, Block(Attention(4), OneMatrix()))).build(seed=0).run([[1, 2]]).logits.shape
    torch.Size([1, 2, 64])
    """

    def resolved(self, width: int) -> Self:
        """With every implied size written out."""
        return self

    def build(self, width: int, std: float) -> Module:
        raise TypeError(f"{type(self).__name__} must define build(width, std)")

    def idle_weights(self, width: int) -> int:
        """How many entries of its matrices a token does not meet."""
        return 0


@dataclass(frozen=True)
class MLP(Map):
    """W2 f(W1 x): one hidden layer of `hidden` units, 4 * width unless given.

    >>> from cloche import LM, MLP, Attention, Block, Stack
    >>> net = LM(64, 32, Stack(1, Block(Attention(4), MLP("gelu")))).build(seed=0)
    >>> net.run([[1, 2]], save=["mlp_act[0]"])["mlp_act[0]"].shape
    torch.Size([1, 2, 128])
    """

    activation: str | Shifted = "gelu"
    hidden: int | None = None
    bias: bool = False

    def __post_init__(self) -> None:
        positive(self, hidden=self.hidden)
        activation(self.activation)

    def resolved(self, width: int) -> MLP:
        return dataclasses.replace(self, hidden=self.hidden or 4 * width)

    def build(self, width: int, std: float) -> Module:
        return _MLP(self, width, std)

    def prove(self, x: Tensor, proof: Proof) -> Tensor:
        pre = proof("mlp_pre", proof.linear("inner", x))
        return proof.linear("outer", proof("mlp_act", activation(self.activation)(pre)))


@dataclass(frozen=True)
class GLU(Map):
    """W2 (f(Wg x) * Wu x), the gated linear unit (Shazeer 2020, 2002.05202); `hidden` 8/3 * width unless given.

    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> net = LM(64, 32, Stack(1, Block(Attention(4), GLU("silu", hidden=48)))).build(seed=0)
    >>> net.run([[1, 2]], save=["mlp_act[0]"])["mlp_act[0]"].shape
    torch.Size([1, 2, 48])
    """

    activation: str | Shifted = "silu"
    hidden: int | None = None
    bias: bool = False

    def __post_init__(self) -> None:
        positive(self, hidden=self.hidden)
        activation(self.activation)

    def resolved(self, width: int) -> GLU:
        return dataclasses.replace(self, hidden=self.hidden or 8 * width // 3)

    def build(self, width: int, std: float) -> Module:
        return _GLU(self, width, std)

    def prove(self, x: Tensor, proof: Proof) -> Tensor:
        gate = proof("mlp_pre", proof.linear("inner", x, "gate"))
        act = activation(self.activation)(gate) * proof.linear("inner", x, "up")
        return proof.linear("outer", proof("mlp_act", act))


@dataclass(frozen=True)
class ClampedGLU(Map):
    """W2 (g sigmoid(slope g) (u + 1)), the gate g = Wg x held below `limit`, u = Wu x between -limit and limit (GPT-OSS,
    2508.10925); `hidden` 8/3 * width unless given.

    >>> from cloche.model import ClampedGLU
    >>> ClampedGLU(hidden=48).limit
    7.0
    """

    hidden: int | None = None
    bias: bool = False
    slope: float = 1.702
    limit: float = 7.0

    def __post_init__(self) -> None:
        positive(self, hidden=self.hidden, slope=self.slope, limit=self.limit)

    def resolved(self, width: int) -> ClampedGLU:
        return dataclasses.replace(self, hidden=self.hidden or 8 * width // 3)

    def build(self, width: int, std: float) -> Module:
        return _ClampedGLU(self, width, std)

    def prove(self, x: Tensor, proof: Proof) -> Tensor:
        gate = proof("mlp_pre", proof.linear("inner", x, "gate")).clamp(max=self.limit)
        up = proof.linear("inner", x, "up").clamp(-self.limit, self.limit)
        return proof.linear("outer", proof("mlp_act", gate / (1 + (-self.slope * gate).exp()) * (up + 1)))


class _Hidden(Module):
    """Two matrices with hidden units between them; `gates` names the matrices that are joined in the first."""

    def __init__(self, part: Any, width: int, std: float, gates: tuple[str, ...] = ()) -> None:
        super().__init__()
        hidden = part.resolved(width).hidden
        self.gates = gates
        rows, blocks = hidden * (len(gates) or 1), dict.fromkeys(gates, hidden)
        self.inner = Linear(width, rows, width**-0.5, part.bias, blocks, shard="rows")
        self.outer = Linear(hidden, width, std * hidden**-0.5, part.bias, shard="columns")
        self.resized()

    def resized(self) -> None:
        """Says the number of hidden units that the matrices have, at first or after some were removed."""
        hidden = self.outer.weight.shape[1]
        self.rows = [hidden] * len(self.gates)
        for name in self.inner.declared if self.gates else ():
            self.inner.declared[name] = dataclasses.replace(
                self.inner.declared[name], blocks=dict.fromkeys(self.gates, hidden)
            )
        self.declare_site("mlp_pre", each_token(hidden=hidden))
        self.declare_site("mlp_act", each_token(hidden=hidden))


class _MLP(_Hidden):
    def __init__(self, part: MLP, width: int, std: float) -> None:
        super().__init__(part, width, std * gain(part.activation))
        self.f = activation(part.activation)

    def forward(self, x: Tensor, context: Context, layer: int) -> tuple[Tensor, dict[str, Tensor]]:
        pre = context.record("mlp_pre", layer, self.inner(x))
        return self.outer(context.record("mlp_act", layer, self.f(pre))), {}

    def frozen(self, x: Tensor, context: Context, layer: int, gates: Gates) -> tuple[Tensor, Adjoint]:
        pre = context.record("mlp_pre", layer, self.inner(x))
        act = self.f(pre)
        slope, _ = secant(self.f, pre, act)

        def backward(dy: Tensor, record: Recorder) -> Tensor:
            dact = record("mlp_act", layer, self.outer.transposed(dy))
            return self.inner.transposed(record("mlp_pre", layer, dact * slope))

        return self.outer(context.record("mlp_act", layer, act)), backward


class _Gated(_Hidden):
    """A product of functions of two halves. Site mlp_pre is the gate before its activation; mlp_act the product that the
    output matrix reads."""

    def __init__(self, part: Any, width: int, std: float) -> None:
        super().__init__(part, width, std, ("gate", "up"))

    def gate(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def up(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor, context: Context, layer: int) -> tuple[Tensor, dict[str, Tensor]]:
        gate, up = self.inner.split(x, self.rows)
        gate = context.record("mlp_pre", layer, gate)
        return self.outer(context.record("mlp_act", layer, self.gate(gate) * self.up(up))), {}

    def frozen(self, x: Tensor, context: Context, layer: int, gates: Gates) -> tuple[Tensor, Adjoint]:
        gate, up = self.inner.split(x, self.rows)
        gate = context.record("mlp_pre", layer, gate)
        left, right = self.gate(gate), self.up(up)
        (a, a0), (b, b0) = secant(self.gate, gate, left), secant(self.up, up, right)
        # (a gate + a0) (b up + b0): the product of the first terms is shared half each, or all of it goes to up.
        both = [a * (right + b0), b * (left + a0)] if gates == "half" else [torch.zeros_like(left), 2 * b * left]
        slopes = torch.stack(both, -2).div_(2)

        def backward(dy: Tensor, record: Recorder) -> Tensor:
            dact = record("mlp_act", layer, self.outer.transposed(dy))
            both = dact[..., None, :] * slopes  # [..., gate or up, hidden]
            if record.wants("mlp_pre", layer):
                both = torch.stack([record("mlp_pre", layer, both[..., 0, :]), both[..., 1, :]], -2)
            return self.inner.transposed(both.flatten(-2))

        return self.outer(context.record("mlp_act", layer, left * right)), backward


class _GLU(_Gated):
    def __init__(self, part: GLU, width: int, std: float) -> None:
        super().__init__(part, width, std * gain(part.activation))
        self.f = activation(part.activation)

    def gate(self, x: Tensor) -> Tensor:
        return self.f(x)


class _ClampedGLU(_Gated):
    def __init__(self, part: ClampedGLU, width: int, std: float) -> None:
        # g sigmoid(1.702 g) is nearly GELU, and u + 1 has a second moment of two.
        super().__init__(part, width, std * gain("gelu") * 2**-0.5)
        self.slope, self.limit = part.slope, part.limit

    def gate(self, x: Tensor) -> Tensor:
        x = x.clamp(max=self.limit)
        return x * (x * self.slope).sigmoid()

    def up(self, x: Tensor) -> Tensor:
        return x.clamp(-self.limit, self.limit) + 1
