"""Softmax attention: multi-head, grouped-query and multi-query, with any position encoding and mask."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from cloche.errors import SettingConflict
from cloche.model.context import Context
from cloche.model.declare import Linear, Module
from cloche.model.maps.mlp import Gates
from cloche.model.mixers.masks import Causal, Mask
from cloche.model.norms import Norm, row_size
from cloche.model.positions.encodings import NoPosition, Position, rotate
from cloche.model.sites.declared import each_pair, each_token
from cloche.model.sites.recorder import Adjoint, Keeping, Recorder
from cloche.part import Part, positive

if TYPE_CHECKING:
    from cloche.model.sites.proof import Proof


class Mixer(Part):
    """Moves information between positions.

    `build(width, std)` gives a module whose forward takes (x, context, layer, state) and returns (update, state): the
    cached and the full pass share that one path. Its `new_state(batch, capacity, like)` is an empty cache;
    `pattern_reads` and `pattern_rows` give rows of the pattern to monitors (see `DotProduct`). `std` is the initial
    standard deviation of the update. `prove(x, proof)` proves its sites from the mixer's fields and weights alone and
    returns the update (see `sites.proof`).

    >>> import torch
    >>> from cloche import Attention
    >>> from cloche.model import Context, Mixer
    >>> mix = Attention(heads=4).resolved(32).build(32, std=1.0)
    >>> update, _ = mix(torch.randn(1, 3, 32), Context.over(torch.tensor([[5, 6, 7]])), 0, None)
    >>> isinstance(Attention(heads=4), Mixer), update.shape
    (True, torch.Size([1, 3, 32]))
    """

    mask: Mask

    def resolved(self, width: int) -> Self:
        """With every implied size written out."""
        return self

    def build(self, width: int, std: float) -> Module:
        raise TypeError(f"{type(self).__name__} must define build(width, std)")

    def flops_per_token(self, width: int, length: int) -> float:
        """Forward operations per token beyond its weight matrices."""
        return 0.0


@dataclass(frozen=True)
class Attention(Mixer):
    """Scaled dot-product attention (Vaswani et al. 2017). kv_heads < heads shares keys and values (2305.13245).

    head_size: width // heads unless given. qk_norm: normalises each query and key head (or, with `AllHeads`, all of them
    together) before its rotation.
    bias: on q, k and v; out_bias: on the output, as `bias` unless given.

    >>> from cloche import GLU, LM, Attention, Block, Causal, RoPE, Stack, Window
    >>> grouped = Attention(heads=4, kv_heads=2, position=RoPE(), mask=Causal() & Window(128))
    >>> net = LM(64, 32, Stack(2, Block(grouped, GLU()))).build(seed=0)
    >>> r = net.run([[1, 2, 3]], save=["pattern[0]", "k[0]"])
    >>> r["pattern[0]"].shape, r["k[0]"].shape
    (torch.Size([1, 4, 3, 3]), torch.Size([1, 3, 2, 8]))
    """

    heads: int
    kv_heads: int | None = None
    head_size: int | None = None
    position: Position = NoPosition()
    mask: Mask = Causal()
    bias: bool = False
    out_bias: bool | None = None
    qk_norm: Norm | None = None

    def __post_init__(self) -> None:
        positive(self, heads=self.heads, kv_heads=self.kv_heads, head_size=self.head_size)
        if self.heads % (self.kv_heads or self.heads):
            raise SettingConflict(
                f"Attention(heads={self.heads}, kv_heads={self.kv_heads}): heads must be a multiple of kv_heads."
            )

    def size(self, width: int) -> int:
        """Head size in a model of this width."""
        if self.head_size is None and width % self.heads:
            raise SettingConflict(
                f"Attention(heads={self.heads}) does not divide the width {width}; choose another number or give head_size."
            )
        return self.head_size or width // self.heads

    def resolved(self, width: int) -> Attention:
        out_bias = self.bias if self.out_bias is None else self.out_bias
        return dataclasses.replace(
            self, kv_heads=self.kv_heads or self.heads, head_size=self.size(width), out_bias=out_bias
        )

    def build(self, width: int, std: float) -> Module:
        return DotProduct(self, width, std)

    def prove(self, x: Tensor, proof: Proof) -> Tensor | None:
        q, k, v = self.prove_heads(x, proof)
        scores = self.prove_scores(q, k, proof, self.size(proof.width) ** -0.5)
        pattern = proof("pattern", None if scores is None else scores.softmax(-1))
        return self.prove_update(pattern, v, proof)

    def prove_heads(self, x: Tensor, proof: Proof) -> tuple[Tensor | None, ...]:
        """q, k and v by their definition, each [batch, position, head, size]."""
        size, turned = self.size(proof.width), []
        q, k, v = (proof.linear("qkv", x, block).unflatten(-1, (-1, size)) for block in "qkv")
        for name, value in (("q", q), ("k", k)):
            if self.qk_norm is None:
                before = proof(f"{name}_pre", value)
            else:
                before = self.qk_norm.prove_heads(value, proof.inside(f"{name}_norm"), f"{name}_pre")
            turned.append(proof.through(self.position, before, "", name))
        return (*turned, proof("v", v))

    def prove_scores(
        self, q: Tensor | None, k: Tensor | None, proof: Proof, scale: float, cap: float | None = None
    ) -> Tensor | None:
        """The scores by their definition: query head h reads key head h // (heads / kv_heads)."""
        if q is None or k is None:
            return proof("scores", None)
        scores = torch.stack([q[:, :, h] @ k[:, :, self._group(h)].mT for h in range(self.heads)], 1) * scale
        if cap is not None:
            scores = cap * (scores / cap).tanh()
        size = row_size(q).transpose(1, 2) * (row_size(k).amax() * scale)
        seen = self.mask.allows(proof.positions[:, None, :, None], proof.positions[:, None, None, :])
        return proof("scores", torch.where(seen, scores, -torch.inf), size)

    def prove_update(self, pattern: Tensor | None, v: Tensor | None, proof: Proof) -> Tensor | None:
        """z, each head's output and the update by their definition."""
        if pattern is None or v is None:
            z = proof("z", None)
        else:
            z = proof("z", torch.stack([pattern[:, h] @ v[:, :, self._group(h)] for h in range(self.heads)], 2))
        if z is None:
            return None
        each = [proof.columns("out", head, h * head.shape[-1]) for h, head in enumerate(z.unbind(2))]
        return proof("head_out", torch.stack(each, 2)).sum(2) + proof.vector("out.bias")

    def _group(self, head: int) -> int:
        """The key head that a query head reads."""
        return head // (self.heads // (self.kv_heads or self.heads))

    def flops_per_token(self, width: int, length: int) -> float:
        # q k^T and pattern v, two operations per multiply-add, without halving for causality (as PaLM counts, 2204.02311).
        return 4.0 * self.heads * self.size(width) * length


@functools.cache
def fast_bf16_attention() -> bool:
    """Whether this CPU multiplies bf16 tiles (AMX). Without them the fused kernel's bf16 backward takes three times its
    fp32 one (docs/log.md), so training widens q, k and v for the attention alone."""
    return torch.cpu._is_amx_tile_supported()


@dataclass
class KeyValues:
    """One layer's cache: keys and values [batch, kv_head, capacity, head_size], filled from the left."""

    keys: Tensor
    values: Tensor
    by_slot: ClassVar[bool] = True  # each token has its own slot, so a pass may start again at any of them

    def repeated(self, count: int) -> KeyValues:
        """`count` copies of every row, one batch after the other."""
        return KeyValues(self.keys.repeat(count, 1, 1, 1), self.values.repeat(count, 1, 1, 1))

    def growing(self) -> list[tuple[Tensor, int]]:
        """The tensors whose size differs between prompts, each with the axis that does."""
        return [(self.keys, 2), (self.values, 2)]

    def extend(self, k: Tensor, v: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Write k, v [batch, kv_head, new, head_size] from slot `start` on; returns views of all filled slots."""
        end = start + k.shape[2]
        self.keys[:, :, start:end] = k
        self.values[:, :, start:end] = v
        return self.keys[:, :, :end], self.values[:, :, :end]


class DotProduct(Module):
    """The module of an Attention. Subclasses that change the scores override `scale`, `shaped` and `pattern`."""

    pattern_reads = ("q", "k")  # the sites that `pattern_rows` is computed from
    scale: float | None = None  # the factor of q k^T, size^-0.5 if None
    explicit = False  # whether the fused kernel cannot compute it

    def __init__(self, part: Attention, width: int, std: float) -> None:
        super().__init__()
        self.part = part = part.resolved(width)
        self.size = size = part.size(width)
        part.position.check(size)
        self.heads, self.kv_heads = part.heads, part.kv_heads or part.heads
        blocks = {"q": self.heads * size, "k": self.kv_heads * size, "v": self.kv_heads * size}
        self.qkv = Linear(width, sum(blocks.values()), width**-0.5, part.bias, blocks, shard="rows")
        self.out = Linear(
            self.heads * size, width, std * (self.heads * size) ** -0.5, bool(part.out_bias), shard="columns"
        )
        self.q_norm = part.qk_norm.build_heads(self.heads, size) if part.qk_norm else None
        self.k_norm = part.qk_norm.build_heads(self.kv_heads, size) if part.qk_norm else None
        self._declare_sites()

    def _declare_sites(self) -> None:
        by_query = each_token(head=self.heads, head_size=self.size)
        by_key = each_token(head=self.kv_heads, head_size=self.size)
        self.declare_site("q_pre", by_query)
        self.declare_site("k_pre", by_key)
        self.declare_site("q", by_query)
        self.declare_site("k", by_key)
        self.declare_site("v", by_key)
        self.declare_site("scores", each_pair(head=self.heads))
        self.declare_site("pattern", each_pair(head=self.heads))
        self.declare_site("z", by_query)
        self.declare_site("head_out", each_token("z", head=self.heads, width=self.out.weight.shape[0]))

    def new_state(self, batch: int, capacity: int, like: Tensor) -> KeyValues:
        """An empty cache for `capacity` tokens, with the dtype and device of `like`."""
        shape = (batch, self.kv_heads, capacity, self.size)
        return KeyValues(like.new_zeros(shape), like.new_zeros(shape))

    def forward(
        self, x: Tensor, context: Context, layer: int, state: KeyValues | None
    ) -> tuple[Tensor, KeyValues | None]:
        record = context.record
        q, k, v = (each.transpose(1, 2) for each in self.projected(x, context, layer))
        if state is not None:
            k, v = state.extend(k, v, context.start)
        z = record("z", layer, self.mixed(q, k, v, context, layer).transpose(1, 2))  # [batch, position, head, size]
        if record.wants("head_out", layer):
            matrices = self.out.weight.unflatten(1, (self.heads, self.size))  # [width, head, size]
            record("head_out", layer, torch.einsum("bphs,whs->bphw", z, matrices.to(z.dtype)))
        return self.out(z.flatten(2)), state

    def projected(self, x: Tensor, context: Context, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v, each [batch, position, head, size], of the branch's input x [batch, position, width]."""
        record = context.record
        qk, v = self.qkv.split(x, [(self.heads + self.kv_heads) * self.size, self.kv_heads * self.size])
        # [batch, position, heads of q, then of k, size] and [batch, position, heads of v, size]
        qk, v = qk.unflatten(-1, (-1, self.size)), v.unflatten(-1, (-1, self.size))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = qk.split((self.heads, self.kv_heads), dim=2)
            qk = torch.cat([self.q_norm(q), self.k_norm(k)], 2)
        if record.wants("q_pre", layer) or record.wants("k_pre", layer):
            q, k = qk.split((self.heads, self.kv_heads), dim=2)
            qk = torch.cat([record("q_pre", layer, q), record("k_pre", layer, k)], 2)
        table = context.table(self.part.position, self.size)
        if table is not None:
            qk = rotate(qk, table)  # q and k in one go
        q, k = qk.split((self.heads, self.kv_heads), dim=2)
        return record("q", layer, q), record("k", layer, k), record("v", layer, v)

    def mixed(self, q: Tensor, k: Tensor, v: Tensor, context: Context, layer: int) -> Tensor:
        """z [batch, head, query, size] of q, and k and v at the keys of `context`, each [batch, head, position, size]."""
        if self.explicit or context.record.wants("scores", layer) or context.record.wants("pattern", layer):
            return self._spelled_out(q, k, v, context, layer)
        return self._fused(q, k, v, *context.mask(self.part.mask))

    def frozen(self, x: Tensor, context: Context, layer: int, gates: Gates) -> tuple[Tensor, Adjoint]:
        """See `Module`: the pattern is held fixed, so nothing reaches q and k."""
        inside = Keeping(["pattern"], context.record)
        update, _ = self(x, context.recorded_by(inside), layer, None)
        grouped = inside.kept["pattern", layer].unflatten(1, (self.kv_heads, -1)).flatten(2, 3)
        values = self.qkv.weight[-self.kv_heads * self.size :]  # [kv_head * size, width]

        def backward(dy: Tensor, record: Recorder) -> Tensor:
            dz = record("z", layer, self.out.transposed(dy).unflatten(-1, (self.heads, self.size)))
            count, batch = dz.shape[:2]
            # One product per kv head, in which all cotangents are columns: over queries and the heads of its group.
            columns = dz.unflatten(3, (self.kv_heads, -1)).permute(
                1, 3, 4, 2, 0, 5
            )  # [batch, kv_head, group, query, ...]
            columns = columns.reshape(batch, self.kv_heads, -1, count * self.size)
            dv = (grouped.mT.to(dz.dtype) @ columns).unflatten(-1, (count, self.size)).permute(3, 0, 2, 1, 4)
            return record("v", layer, dv).flatten(-2) @ values.to(dz.dtype)

        return update, backward

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
        grouped = self.kv_heads != self.heads
        if not (q.dtype == torch.bfloat16 and q.device.type == "cpu" and q.requires_grad and not fast_bf16_attention()):
            return F.scaled_dot_product_attention(
                q, k, v, mask, is_causal=is_causal, scale=self.scale, enable_gqa=grouped
            )
        with torch.autocast("cpu", enabled=False):
            q, k, v = q.float(), k.float(), v.float()
            z = F.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal, scale=self.scale, enable_gqa=grouped)
        return z.to(torch.bfloat16)

    def _spelled_out(self, q: Tensor, k: Tensor, v: Tensor, context: Context, layer: int) -> Tensor:
        """The same attention with explicit scores and pattern; in fp32 at least, as the fused kernel accumulates."""
        with torch.autocast(q.device.type, enabled=False):  # which would multiply in bf16 whatever the inputs' dtype
            groups, wide = self.heads // self.kv_heads, torch.promote_types(q.dtype, torch.float32)
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
            scores = self.shaped((q.to(wide) @ k.to(wide).mT) * (self.scale or self.size**-0.5))
            scores = scores.masked_fill(~context.visible(self.part.mask), -torch.inf)
            scores = context.record("scores", layer, scores)
            pattern = context.record("pattern", layer, self.pattern(scores))
            return (pattern @ v.to(wide)).to(v.dtype)

    def shaped(self, scores: Tensor) -> Tensor:
        """The scores [batch, head, query, key] that the mask and then the softmax act on."""
        return scores

    def pattern(self, scores: Tensor) -> Tensor:
        """The attention pattern from the masked scores."""
        return scores.softmax(-1)

    def pattern_rows(self, rows: Tensor, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Some rows of the pattern, from the values of the sites `pattern_reads`: [batch, head, row, choice], and the
        number of choices of each row, [row]. Other rows are not computed.

        rows: query positions. A choice is a key, or a sink.
        """
        if self.heads > self.kv_heads:
            k = k.repeat_interleave(self.heads // self.kv_heads, dim=2)
        scores = torch.einsum("brhd,bkhd->bhrk", q[:, rows], k).float().mul_(self.scale or self.size**-0.5)
        seen = self.part.mask.allows(rows[:, None], torch.arange(k.shape[1], device=k.device)[None, :])  # [row, key]
        return self.pattern(self.shaped(scores).masked_fill_(~seen, -torch.inf)), seen.sum(-1)
