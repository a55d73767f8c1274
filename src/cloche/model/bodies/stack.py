"""Blocks, and a stack of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from cloche.errors import PartInvalid, SettingRange, shown
from cloche.model.bodies.body import Body, Iterated
from cloche.model.context import Context
from cloche.model.declare import Module, freeze, matrix_weights
from cloche.model.maps.mlp import Gates, Map
from cloche.model.mixers.attention import Mixer
from cloche.model.norms import Norm, RMSNorm, has_scale, normalised
from cloche.model.sites.declared import Declarations, DeclaredSite, each_token, joined
from cloche.model.sites.recorder import Adjoint, Recorder
from cloche.part import Part, positive

if TYPE_CHECKING:
    from cloche.model.sites.proof import Proof

BRANCHES = 2  # residual branches per block: mix and map
DEEPEST = 10_000  # blocks; far beyond any model there is, and still built in seconds


@dataclass(frozen=True)
class Block(Part):
    """x + mix(norm(x)), then x + map(norm(x)): one pre-norm layer.

    post: a norm on the output of each branch, alone (with `norm=NoNorm()`, OLMo 2) or besides `norm` (Gemma 2).

    >>> from cloche import GLU, Attention, Block, LayerNorm
    >>> Block(Attention(4), GLU(), norm=LayerNorm()).norm
    LayerNorm(eps=1e-05, bias=True)
    """

    mix: Mixer
    map: Map
    norm: Norm = RMSNorm()
    post: Norm | None = None

    def resolved(self, width: int) -> Block:
        return dataclasses.replace(self, mix=self.mix.resolved(width), map=self.map.resolved(width))

    def build(self, width: int, std: float) -> _Block:
        """std: the initial standard deviation of each branch's output."""
        return _Block(self, width, std)

    def prove(self, x: Tensor | None, proof: Proof) -> Tensor | None:
        """Prove the block's sites from its fields and weights alone; returns the stream after it (see `sites.proof`)."""
        x = proof("resid_pre", x)
        x = proof.sum("resid_mid", x, self._branch("mix", x, proof, "attn"))
        return proof.sum("resid_post", x, self._branch("map", x, proof, "mlp"))

    def _branch(self, name: str, x: Tensor | None, proof: Proof, site: str) -> Tensor | None:
        read = proof.through(self.norm, x, f"{name}_norm", f"{site}_in", f"{site}_scale")
        update = proof.through(getattr(self, name), read, name)
        if self.post is None:
            return proof(f"{site}_out", update)
        return proof.through(self.post, update, f"{name}_post", f"{site}_out")


@dataclass(frozen=True)
class ParallelBlock(Block):
    """x + mix(norm(x)) + map(norm(x)), each with a norm of its own: both branches read the same stream (GPT-NeoX, PaLM).

    >>> from cloche import GLU, LM, Attention, Stack
    >>> from cloche.model import ParallelBlock
    >>> net = LM(64, 32, Stack(1, ParallelBlock(Attention(4), GLU()))).build(seed=0)
    >>> r = net.run([[1, 2]], save=["resid_pre[0]", "attn_out[0]", "mlp_out[0]", "resid_post[0]"])
    >>> total = r["resid_pre[0]"] + r["attn_out[0]"] + r["mlp_out[0]"]
    >>> bool((total - r["resid_post[0]"]).abs().max() < 1e-5)
    True
    """

    def build(self, width: int, std: float) -> _Block:
        return _ParallelBlock(self, width, std)

    def prove(self, x: Tensor | None, proof: Proof) -> Tensor | None:
        x = proof("resid_pre", x)
        updates = self._branch("mix", x, proof, "attn"), self._branch("map", x, proof, "mlp")
        return proof.sum("resid_post", x, *updates)


class _Block(Module):
    between: tuple[str, ...] = ("resid_mid",)  # sites of the stream between its branches

    def __init__(self, part: Block, width: int, std: float) -> None:
        super().__init__()
        self.width = width
        self.mix_norm = part.norm.build(width)
        self.mix = part.mix.build(width, std)
        self.map_norm = part.norm.build(width)
        self.map = part.map.build(width, std)
        self.mix_post = part.post.build(width, std) if part.post else None
        self.map_post = part.post.build(width, std) if part.post else None
        self.redescribed(part)

    def redescribed(self, part: Block) -> None:
        """Takes over a part whose sizes the modules already have."""
        self.part = part
        self.declared_sites = self._sites(each_token(width=self.width))

    def _sites(self, stream: DeclaredSite) -> Declarations:
        """The block's own sites and those of its branches, in the order of the pass."""
        scale = each_token(scale=1)
        return joined(
            f"a {type(self.part).__name__}",
            {"resid_pre": stream} | ({"attn_scale": scale} if has_scale(self.mix_norm) else {}) | {"attn_in": stream},
            getattr(self.mix, "declared_sites", {}),
            dict.fromkeys(("attn_out", *self.between), stream),
            {"mlp_scale": scale} if has_scale(self.map_norm) else {},
            {"mlp_in": stream},
            getattr(self.map, "declared_sites", {}),
            dict.fromkeys(("mlp_out", "resid_post"), stream),
        )

    def flops_per_token(self, length: int) -> float:
        """Forward operations per token: two per weight, and the mixer's own."""
        met = matrix_weights(self) - self.part.map.idle_weights(self.width)
        return 2.0 * met + self.part.mix.flops_per_token(self.width, length)

    def forward(self, x: Tensor, context: Context, layer: int, state: Any) -> tuple[Tensor, Any]:
        record = context.record
        x = record("resid_pre", layer, x)
        update, state = self._mixed(x, context, layer, state)
        x = record("resid_mid", layer, x + update)
        x = record("resid_post", layer, x + self._mapped(x, context, layer))
        return x, state

    def frozen(self, x: Tensor, context: Context, layer: int, gates: Gates) -> tuple[Tensor, Adjoint]:
        """See `Module`."""
        x = context.record("resid_pre", layer, x)
        mixed, from_mix = self._frozen_branch("mix", "attn", x, context, layer, gates)
        x = context.record("resid_mid", layer, x + mixed)
        mapped, from_map = self._frozen_branch("map", "mlp", x, context, layer, gates)

        def backward(dy: Tensor, record: Recorder) -> Tensor:
            dy = record("resid_post", layer, dy)
            dy = record("resid_mid", layer, dy + from_map(dy, record))
            return record("resid_pre", layer, dy + from_mix(dy, record))

        return context.record("resid_post", layer, x + mapped), backward

    def _frozen_branch(
        self, name: str, site: str, x: Tensor, context: Context, layer: int, gates: Gates
    ) -> tuple[Tensor, Adjoint]:
        norm, module, post = (getattr(self, each) for each in (f"{name}_norm", name, f"{name}_post"))
        read, to_stream = freeze(norm, x)
        update, to_read = freeze(module, context.record(f"{site}_in", layer, read), context, layer, gates)
        update, to_update = (update, lambda dy: dy) if post is None else freeze(post, update)

        def backward(dy: Tensor, record: Recorder) -> Tensor:
            dy = to_read(to_update(record(f"{site}_out", layer, dy)), record)
            return to_stream(record(f"{site}_in", layer, dy))

        return context.record(f"{site}_out", layer, update), backward

    def _mixed(self, x: Tensor, context: Context, layer: int, state: Any) -> tuple[Tensor, Any]:
        read = normalised(self.mix_norm, x, context.record, "attn_scale", layer)
        update, state = self.mix(context.record("attn_in", layer, read), context, layer, state)
        if self.mix_post is not None:
            update = self.mix_post(update)
        return context.record("attn_out", layer, update), state

    def _mapped(self, x: Tensor, context: Context, layer: int) -> Tensor:
        read = normalised(self.map_norm, x, context.record, "mlp_scale", layer)
        update, losses = self.map(context.record("mlp_in", layer, read), context, layer)
        context.collect(losses)
        if self.map_post is not None:
            update = self.map_post(update)
        return context.record("mlp_out", layer, update)


class _ParallelBlock(_Block):
    between = ()

    def forward(self, x: Tensor, context: Context, layer: int, state: Any) -> tuple[Tensor, Any]:
        x = context.record("resid_pre", layer, x)
        update, state = self._mixed(x, context, layer, state)
        return context.record("resid_post", layer, x + update + self._mapped(x, context, layer)), state

    def frozen(self, x: Tensor, context: Context, layer: int, gates: Gates) -> tuple[Tensor, Adjoint]:
        """See `Module`."""
        x = context.record("resid_pre", layer, x)
        mixed, from_mix = self._frozen_branch("mix", "attn", x, context, layer, gates)
        mapped, from_map = self._frozen_branch("map", "mlp", x, context, layer, gates)

        def backward(dy: Tensor, record: Recorder) -> Tensor:
            dy = record("resid_post", layer, dy)
            return record("resid_pre", layer, dy + from_map(dy, record) + from_mix(dy, record))

        return context.record("resid_post", layer, x + mixed + mapped), backward


@dataclass(frozen=True)
class Stack(Body):
    """`depth` blocks one after the other; several blocks are repeated in turn (local, global, local, ...).

    >>> from cloche import GLU, Attention, Block, Causal, Stack, Window
    >>> near = Block(Attention(4, mask=Causal() & Window(64)), GLU())
    >>> Stack(6, (near, Block(Attention(4), GLU()))).depth  # near, far, near, far, near, far
    6
    """

    depth: int
    block: Block | tuple[Block, ...]
    counts = ("depth",)

    def __post_init__(self) -> None:
        positive(self, depth=self.depth)
        if self.depth > DEEPEST:
            raise SettingRange(f"Stack(depth={shown(self.depth)}) must be at most {DEEPEST:,} blocks.")
        if not self.blocks:
            raise PartInvalid("Stack(block=()) holds no block; give at least one.")

    @property
    def blocks(self) -> tuple[Block, ...]:
        return self.block if isinstance(self.block, tuple) else (self.block,)

    def resolved(self, width: int) -> Stack:
        blocks = tuple(block.resolved(width) for block in self.blocks)
        return dataclasses.replace(self, block=blocks if len(blocks) > 1 else blocks[0])

    def build(self, width: int, std: float) -> Iterated:
        return _Stack(self, width, std)

    def prove(self, x: Tensor, proof: Proof) -> Tensor | None:
        out: Tensor | None = x
        for layer in range(self.depth):
            block = self.blocks[layer % len(self.blocks)]
            out = proof.at(layer).through(block, out, f"layers.{layer}")
        return out


class _Stack(Iterated):
    def __init__(self, part: Stack, width: int, std: float) -> None:
        super().__init__()
        # All branches together add as much variance as the embedding has: 1/sqrt(branches) each.
        branch = std * (BRANCHES * part.depth) ** -0.5
        blocks = [part.blocks[i % len(part.blocks)] for i in range(part.depth)]
        self.layers = nn.ModuleList(block.build(width, branch) for block in blocks)
