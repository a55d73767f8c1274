"""A language model as a value: the root of the tree of parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cloche.errors import OutOfMemory, SettingInvalid, shown
from cloche.model.bodies.body import Body
from cloche.model.declare import Linear, Module
from cloche.model.norms import Norm, RMSNorm
from cloche.model.positions.encodings import EmbeddingPosition
from cloche.part import Part, positive

if TYPE_CHECKING:
    from cloche.model.initialisation import Initialisation
    from cloche.model.network import Network
    from cloche.model.sites.proof import Proof


# GPT-2's value. A shared matrix of standard deviation s gives a token's own logit about s * width before anything is learned
# (its stream is mostly its embedding), so variance-one logits (s = width^-1/2) would start far above log(vocab) nats.
TIED_STD = 0.02
MOST_AHEAD = 64  # further heads


class Head(Part):
    """From the normalised residual stream to logits. `build(width, vocab, tied)` gives a module to logits [...,
    vocab].

    `prove(x, proof)` says what the logits are, from the head's fields and weights alone (see `sites.proof`).

    >>> import torch
    >>> from cloche import Unembed
    >>> from cloche.model import Head
    >>> isinstance(Unembed(), Head), Unembed().build(32, 64, tied=None)(torch.zeros(1, 5, 32)).shape
    (True, torch.Size([1, 5, 64]))
    """

    def build(self, width: int, vocab: int, tied: Module | None) -> Module:
        raise TypeError(f"{type(self).__name__} must define build(width, vocab, tied)")


@dataclass(frozen=True)
class Unembed(Head):
    """One linear map to the vocabulary; in a tied model the embedding's matrix.

    cap: a logit x becomes cap tanh(x / cap) (Gemma 2, 2408.00118). ahead: number of further heads for `MultiToken`: head
    j reads h + silu(A_j h) with the same matrix (Medusa, 2401.10774); A_j starts at zero.

    >>> from cloche import GLU, LM, Attention, Block, Stack, Unembed
    >>> net = LM(64, 32, Stack(1, Block(Attention(4), GLU())), head=Unembed(cap=30.0)).build(seed=0)
    >>> bool(net.run([[1, 2]]).logits.abs().max() <= 30)
    True
    """

    bias: bool = False
    cap: float | None = None
    ahead: int | None = None

    def __post_init__(self) -> None:
        positive(self, cap=self.cap, ahead=self.ahead)
        if (self.ahead or 0) > MOST_AHEAD:
            raise SettingInvalid(f"Unembed(ahead={shown(self.ahead)}) must be at most {MOST_AHEAD}.")

    def build(self, width: int, vocab: int, tied: Module | None) -> Module:
        unembed = _Unembed(width, vocab, self)
        if tied is not None:
            unembed.weight = tied.weight  # type: ignore[assignment]
            unembed.declared["weight"] = tied.declared["weight"]
        return unembed

    def prove(self, x: Tensor, proof: Proof) -> Tensor:
        logits = proof.linear("", x)
        return logits if self.cap is None else self.cap * (logits / self.cap).tanh()


class _Ahead(Linear):
    """h + silu(A h): the normalised stream as a further head reads it."""

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.silu(super().forward(x))


class _Unembed(Linear):
    def __init__(self, width: int, vocab: int, part: Unembed) -> None:
        super().__init__(width, vocab, width**-0.5, part.bias, shard="rows")
        self.cap = part.cap
        self.ahead = nn.ModuleList(_Ahead(width, width, std=0.0) for _ in range(part.ahead or 0))

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def frozen(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Before the cap (see `Module`)."""
        return super().forward(x), self.transposed


@dataclass(frozen=True)
class LM(Part):
    """A language model: embedding, body, final norm, head.

    tied: the head reads with the embedding's matrix. position: an encoding added to the embedding (None for those inside
    attention). embed_scale: what the embeddings are multiplied by on their way into the stream (Gemma).

    >>> from cloche import GLU, LM, Attention, Block, RoPE, Stack
    >>> spec = LM(vocab=64, width=32, body=Stack(2, Block(Attention(4, position=RoPE()), GLU())), tied=True)
    >>> net = spec.build(seed=0)
    >>> net.run([[1, 2, 3]]).logits.shape
    torch.Size([1, 3, 64])
    >>> LM.from_toml(spec.to_toml()) == spec
    True
    """

    vocab: int
    width: int
    body: Body
    norm: Norm = RMSNorm()
    head: Head = Unembed()
    tied: bool = False
    position: EmbeddingPosition | None = None
    embed_scale: float | None = None

    def __post_init__(self) -> None:
        positive(self, vocab=self.vocab, width=self.width, embed_scale=self.embed_scale)

    @property
    def stream_std(self) -> float:
        """Standard deviation of the embeddings: one, or `TIED_STD` (scaled) if the head shares their matrix."""
        return TIED_STD * (self.embed_scale or 1.0) if self.tied else 1.0

    def resolved(self) -> LM:
        """The same model with every implied size written out, so that two spellings of one model compare equal."""
        return dataclasses.replace(self, body=self.body.resolved(self.width))

    def prove(self, ids: Tensor, proof: Proof) -> None:
        """Prove every site of a pass over `ids` from the tree's fields and weights alone (see `sites.proof`)."""
        rows = proof.weight("embed.weight")
        x = None if rows is None else rows[ids].double() * (self.embed_scale or 1.0)
        if self.position is not None:
            added = proof.through(self.position, proof.positions, "position")
            x = None if x is None or added is None else x + added
        x = proof.through(self.body, proof("embed", x), "body")
        if x is None:
            proof.blocks()
        x = proof.through(self.norm, x, "final_norm", "final_norm", "final_scale")
        proof("logits", proof.through(self.head, x, "unembed"))

    def build(self, seed: int | None = 0, initialisation: Initialisation | None = None) -> Network:
        """The module this tree describes, on the CPU in fp32, initialised from `seed` (left uninitialised where None), by
        `FanIn` unless given."""
        from cloche.model.network import Network

        self.check_fields()
        try:
            return Network(self, seed, initialisation)
        except (RuntimeError, TypeError, MemoryError, OverflowError) as error:
            if not any(word in str(error) for word in ("allocate", "overflow", "size", "memory")):
                raise
            raise OutOfMemory(
                f"A model of {self.vocab:,} tokens and width {self.width:,} with these layers does not fit into memory; choose "
                "smaller sizes."
            ) from None
