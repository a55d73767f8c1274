"""Families of recipes that differ in body, norm, optimiser and data. Half of them are held out from tuning."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.rounds import RESULTS
from cloche.data import standard_library
from cloche.model import (
    GLU,
    LM,
    MLP,
    Attention,
    Block,
    Causal,
    ClampedGLU,
    LayerNorm,
    Learned,
    Mixer,
    MoE,
    NoNorm,
    Norm,
    ParallelBlock,
    RMSNorm,
    RoPE,
    ScoredAttention,
    Stack,
    Window,
    ZeroCenteredRMSNorm,
)
from cloche.train import SGD, SOAP, AdamW, Library, Muon, Optimizer, RMSprop, Shampoo

SHARED = RESULTS.parents[2] / "shared" / "data" / "text"
CHARACTERS = 1_200_000  # of each text
VOCAB = 512
LENGTH, BATCH = 48, 6


def book(name: str) -> str:
    return next(SHARED.glob(f"books/*{name}*.md")).read_text(errors="replace")


def code() -> str:
    return "".join(path.read_text(errors="replace") for path in standard_library()[:80])


def stories() -> str:
    lines = (SHARED / "tinystories_sample_ascii.jsonl").read_text().splitlines()
    return "\n\n".join(next(iter(json.loads(line).values())) for line in lines)


def declarations() -> str:
    """The Universal Declaration of Human Rights in many languages."""
    with zipfile.ZipFile(SHARED / "udhr2.zip") as archive:
        names = sorted(name for name in archive.namelist() if not name.endswith("/"))
        return "".join(archive.read(name).decode("utf-8", errors="replace") for name in names[::3])


@dataclass(frozen=True)
class Family:
    """One kind of recipe.

    block(norm, scale): its layer, with another norm or attention scores multiplied by `scale` where asked for. rate: a
    good learning rate; edge: the multiple of it up to which the family trains.
    """

    name: str
    held_out: bool
    text: Callable[[], str]
    block: Callable[[Norm, float], Block]
    norm: Norm
    optimizer: Callable[[float], Optimizer]
    rate: float
    edge: float = 1.0
    tied: bool = False
    position: bool = False

    def model(self, norm: Norm | None = None, scale: float = 1.0, width: int = 64, depth: int = 3) -> LM:
        block = self.block(self.norm if norm is None else norm, scale)
        position = Learned(LENGTH) if self.position else None
        final = self.norm if norm is None else norm
        return LM(vocab=VOCAB, width=width, body=Stack(depth, block), norm=final, tied=self.tied, position=position)


def _attention(scale: float, width: int = 64, **settings: Any) -> Mixer:
    """Four heads; scores times `scale`."""
    attention = Attention(4, **settings)
    return attention if scale == 1 else ScoredAttention(attention, scale=scale * (width / 4) ** -0.5)


FAMILIES = {
    family.name: family
    for family in (
        Family(
            "llama",
            False,
            lambda: (SHARED / "tinyshakespeare.txt").read_text(),
            lambda norm, scale: Block(_attention(scale, position=RoPE()), GLU(), norm=norm),
            RMSNorm(),
            lambda lr: AdamW(lr=lr),
            0.006,
        ),
        Family(
            "gpt2",
            False,
            code,
            lambda norm, scale: Block(_attention(scale, bias=True), MLP("gelu", bias=True), norm=norm),
            LayerNorm(),
            lambda lr: Muon(lr=lr),
            0.02,
            tied=True,
            position=True,
        ),
        Family(
            "parallel",
            False,
            lambda: book("Moby-Dick"),
            lambda norm, scale: ParallelBlock(_attention(scale, position=RoPE(share=0.5)), MLP("relu"), norm=norm),
            ZeroCenteredRMSNorm(),
            lambda lr: SGD(lr=lr, momentum=0.9),
            0.3,
        ),
        Family(
            "local",
            False,
            stories,
            lambda norm, scale: Block(
                _attention(scale, mask=Causal() & Window(24), position=RoPE()), ClampedGLU(), norm=norm
            ),
            LayerNorm(bias=False),
            lambda lr: SOAP(lr=lr),
            0.003,
        ),
        Family(
            "experts",
            True,
            lambda: book("Iliad"),
            lambda norm, scale: Block(_attention(scale, position=RoPE()), MoE(4, 2, GLU("gelu", hidden=64)), norm=norm),
            RMSNorm(eps=1e-6),
            lambda lr: Shampoo(lr=lr),
            0.003,
        ),
        Family(
            "sandwich",
            True,
            lambda: book("Species"),
            lambda norm, scale: Block(
                _attention(scale, position=RoPE(theta=1000)),
                MLP("silu"),
                norm=norm,
                post=None if norm == NoNorm() else norm,
            ),
            LayerNorm(eps=1e-6),
            lambda lr: RMSprop(lr=lr),
            0.003,
        ),
        Family(
            "grouped",
            True,
            lambda: book("Dracula"),
            lambda norm, scale: Block(_attention(scale, kv_heads=2, position=RoPE()), GLU("relu"), norm=norm),
            ZeroCenteredRMSNorm(eps=1e-6),
            lambda lr: Library("torch.optim:NAdam", lr=lr),
            0.003,
            tied=True,
        ),
        Family(
            "learned",
            True,
            declarations,
            lambda norm, scale: ParallelBlock(_attention(scale, bias=True), GLU("gelu"), norm=norm),
            LayerNorm(),
            lambda lr: Library("pytorch_optimizer:Lion", lr=lr),
            0.001,
            position=True,
        ),
    )
}
