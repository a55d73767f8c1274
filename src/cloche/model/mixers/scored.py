"""Attention whose scores are scaled, capped, or extended by a sink before the softmax."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cloche.model.declare import Declared, Module
from cloche.model.mixers.attention import Attention, DotProduct, Mixer
from cloche.model.mixers.masks import Mask
from cloche.part import positive

if TYPE_CHECKING:
    from cloche.model.sites.proof import Proof


@dataclass(frozen=True)
class ScoredAttention(Mixer):
    """`attention` with its scores changed before their softmax.

    scale: the factor of q k^T, head_size^-0.5 unless given (Gemma). cap: a score s becomes cap tanh(s / cap)
    (Gemma 2, 2408.00118). sinks: each head has a learned score for an empty key, so that its pattern's rows sum to
    less than one (GPT-OSS, 2508.10925). With cap or sinks the full pattern is computed in memory, as when it is
    saved.

    >>> from cloche import Attention
    >>> from cloche.model import ScoredAttention
    >>> ScoredAttention(Attention(heads=4), scale=0.125, cap=50.0).cap
    50.0
    """

    attention: Attention
    scale: float | None = None
    cap: float | None = None
    sinks: bool = False

    def __post_init__(self) -> None:
        positive(self, scale=self.scale, cap=self.cap)

    @property
    def mask(self) -> Mask:  # type: ignore[override]
        """Its attention's mask."""
        return self.attention.mask

    def resolved(self, width: int) -> ScoredAttention:
        return dataclasses.replace(self, attention=self.attention.resolved(width))

    def build(self, width: int, std: float) -> Module:
        return _ScoredAttention(self, width, std)

    def prove(self, x: Tensor, proof: Proof) -> Tensor | None:
        inner, pattern = self.attention, None
        q, k, v = inner.prove_heads(x, proof)
        scores = inner.prove_scores(q, k, proof, self.scale or inner.size(proof.width) ** -0.5, self.cap)
        if scores is not None:
            most = scores.amax(-1, keepdim=True)
            weights = (scores - most).exp()
            sink = (proof.vector("sinks")[:, None, None] - most).exp() if self.sinks else 0.0
            pattern = weights / (weights.sum(-1, keepdim=True) + sink)
        return inner.prove_update(proof("pattern", pattern), v, proof)

    def flops_per_token(self, width: int, length: int) -> float:
        return self.attention.flops_per_token(width, length)


class _ScoredAttention(DotProduct):
    def __init__(self, part: ScoredAttention, width: int, std: float) -> None:
        super().__init__(part.attention, width, std)
        self.scale, self.cap = part.scale, part.cap
        self.explicit = part.cap is not None or part.sinks
        self.sinks = self.declare("sinks", (self.heads,), Declared(group="vector")) if part.sinks else None

    def shaped(self, scores: Tensor) -> Tensor:
        return scores if self.cap is None else self.cap * torch.tanh(scores / self.cap)

    def pattern(self, scores: Tensor) -> Tensor:
        if self.sinks is None:
            return scores.softmax(-1)
        sinks = self.sinks.to(scores.dtype)[:, None, None].expand(*scores.shape[:3], 1)
        return torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]

    def pattern_rows(self, rows: Tensor, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        pattern, choices = super().pattern_rows(rows, q, k)
        if self.sinks is None:
            return pattern, choices
        rest = (1 - pattern.sum(-1, keepdim=True)).clamp(min=0)  # what the sink holds
        return torch.cat([pattern, rest], -1), choices + 1
