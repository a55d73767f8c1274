"""Where a token stands: encodings that rotate queries and keys, bias the scores, or add to the embedding."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cloche.errors import SettingConflict, SettingRange, shown
from cloche.model.declare import Declared, Module
from cloche.model.positions.scalings import Scaling
from cloche.part import Part, positive

if TYPE_CHECKING:
    from cloche.model.sites.proof import Proof


class Position(Part):
    """An encoding used inside attention. A subclass overrides what it does and inherits doing nothing of the rest.

    >>> import torch
    >>> from cloche import NoPosition, RoPE
    >>> cos, sin = RoPE().table(torch.tensor([[0, 1]]), head_size=8)
    >>> cos.shape, NoPosition().table(torch.tensor([[0, 1]]), head_size=8)
    (torch.Size([1, 2, 1, 8]), None)
    """

    def check(self, head_size: int) -> None:
        """Raise ClocheError when a head of this size cannot carry the encoding."""

    def table(self, positions: Tensor, head_size: int) -> tuple[Tensor, Tensor] | None:
        """(cos, sin), each [batch, position, 1, size], that rotate the first `size` of a head's numbers in q and k; None when
        nothing rotates.

        positions: [batch, position] absolute positions (padding may be negative). One pass computes it once for all layers.
        """
        return None

    def prove(self, x: Tensor, proof: Proof, site: str) -> Tensor | None:
        """What q or k is, [batch, position, head, size], from what it was before: the encoding said once more."""
        return proof(site, x)


@dataclass(frozen=True)
class NoPosition(Position):
    """No encoding: order is known only through the causal mask (Kazemnejad et al. 2023, 2305.19466).

    >>> from cloche import Attention, NoPosition
    >>> Attention(4).position == NoPosition()
    True
    """


@dataclass(frozen=True)
class RoPE(Position):
    """Rotary embedding (Su et al. 2021, 2104.09864), in the half-split layout of Llama checkpoints.

    scaling: how the frequencies change for texts longer than those first trained on. share: only this share of each head,
    rounded down, is rotated (GPT-NeoX); the rest knows no order.

    >>> from cloche import Attention, RoPE
    >>> Attention(heads=4, position=RoPE(theta=500_000)).position.theta
    500000.0
    """

    theta: float = 10_000.0
    scaling: Scaling | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        positive(self, theta=self.theta, share=self.share)
        if self.share is not None and self.share > 1:
            raise SettingRange(f"RoPE(share={self.share}) must be at most 1, the whole head.")

    def size(self, head_size: int) -> int:
        """How many of a head's numbers are rotated."""
        return head_size if self.share is None else int(head_size * self.share)

    def check(self, head_size: int) -> None:
        size = self.size(head_size)
        if size % 2 or not size:
            raise SettingConflict(
                f"RoPE rotates pairs, and {size} of a head's {head_size} numbers is {'odd' if size else 'none'}; "
                "choose an even number."
            )
        if self.scaling is not None:
            self.scaling.check(size)
        if not _turns(self, head_size):
            raise SettingConflict(
                f"{shown(self, 200)} turns heads of {head_size} numbers by what float32 cannot compute with."
            )

    def table(self, positions: Tensor, head_size: int) -> tuple[Tensor, Tensor]:
        size = self.size(head_size)
        pairs = torch.arange(0, size, 2, device=positions.device, dtype=torch.float32)
        speeds = self.theta ** (-pairs / size)  # radians a position
        if self.scaling is not None:
            speeds = self.scaling.scaled(speeds, self.theta, positions)
        angles = positions[..., None].float() * speeds  # [batch, position, size / 2]
        cos, sin = angles.cos(), angles.sin()
        if self.scaling is not None and self.scaling.strength != 1.0:
            cos, sin = cos * self.scaling.strength, sin * self.scaling.strength
        return torch.cat([cos, cos], -1)[:, :, None], torch.cat([-sin, sin], -1)[:, :, None]

    def prove(self, x: Tensor, proof: Proof, site: str) -> Tensor | None:
        half = self.size(x.shape[-1]) // 2
        speeds = torch.tensor([self.theta ** (-pair / half) for pair in range(half)], device=x.device)
        strength = 1.0
        if self.scaling is not None:
            speeds = self.scaling.scaled(speeds, self.theta, proof.positions)
            strength = self.scaling.strength
        angles = proof.positions[..., None, None].double() * speeds.double()  # [1, position, 1, half]
        pairs = torch.complex(x[..., :half], x[..., half : 2 * half]) * torch.polar(torch.ones_like(angles), angles)
        return proof(site, torch.cat([pairs.real * strength, pairs.imag * strength, x[..., 2 * half :]], -1))


STRONGEST = 1e6  # what q and k, and so squared their scores, are multiplied by at most


@functools.cache
def _turns(rope: RoPE, head_size: int) -> bool:
    """Whether the rotations are finite, both within the length that a scaling names and beyond it."""
    length = getattr(rope.scaling, "length", 1)
    try:
        for last in (1, 2 * length):
            table = rope.table(torch.tensor([[0, last]], device="cpu"), head_size)
            if not all(bool((part.abs() <= STRONGEST).all()) for part in table):
                return False
    except (ArithmeticError, ValueError, RuntimeError):
        return False
    return True


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (i, i + size/2) of x [batch, position, head, size] by its position's angle; a table of a smaller size
    turns the first numbers alone.

    >>> import torch
    >>> from cloche.model import RoPE, rotate
    >>> table = RoPE().table(torch.tensor([[0, 1]]), head_size=4)
    >>> rotate(torch.ones(1, 2, 1, 4), table)[0, :, 0]
    tensor([[ 1.0000,  1.0000,  1.0000,  1.0000],
            [-0.3012,  0.9900,  1.3818,  1.0099]])
    """
    cos, sin = table
    size = cos.shape[-1]
    if size < x.shape[-1]:
        return torch.cat([rotate(x[..., :size], table), x[..., size:]], -1)
    # Rolling by half swaps the two members of every pair, and its gradient is a roll too: no slices to zero-fill.
    return torch.addcmul(x * cos.to(x.dtype), x.roll(x.shape[-1] // 2, -1), sin.to(x.dtype))


class EmbeddingPosition(Part):
    """An encoding added to the token embeddings. `build(width)` gives a module from positions to [batch, position, width].

    `prove(positions, proof)` says the same from its weights alone (see `sites.proof`).

    >>> import torch
    >>> from cloche import Learned
    >>> Learned(length=128).build(32, std=1.0)(torch.tensor([[0, 1, 2]])).shape
    torch.Size([1, 3, 32])
    """

    def build(self, width: int, std: float) -> Module:
        raise TypeError(f"{type(self).__name__} must define build(width, std)")


@dataclass(frozen=True)
class Learned(EmbeddingPosition):
    """One learned vector for each of the first `length` positions (GPT-2). Later positions do not exist.

    >>> from cloche import GLU, LM, Attention, Block, Learned, Stack
    >>> LM(64, 32, Stack(1, Block(Attention(4), GLU())), position=Learned(128)).build(seed=0).length
    128
    """

    length: int

    def __post_init__(self) -> None:
        positive(self, length=self.length)

    def build(self, width: int, std: float) -> Module:
        return _Learned(self.length, width, std)

    def prove(self, positions: Tensor, proof: Proof) -> Tensor | None:
        weight = proof.weight("weight")
        return None if weight is None else weight[positions].double()


class _Learned(Module):
    def __init__(self, length: int, width: int, std: float) -> None:
        super().__init__()
        self.weight = self.declare("weight", (length, width), Declared(std=std, group="embedding"))

    def forward(self, positions: Tensor) -> Tensor:
        return self.weight[positions.clamp(min=0)]
