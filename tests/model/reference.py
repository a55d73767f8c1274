"""The same transformer written once more, plainly and from the papers: the truth that sites and edits are tested against.

Nothing here is shared with the package but the weights: attention is spelled out head by head, rotation is complex
multiplication, and a change to any site is a plain function called at its place.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cloche.model import GLU, Network, RoPE

Change = dict[tuple[str, int | None], Callable[[Tensor], Tensor]]


def rms(x: Tensor, eps: float) -> Tensor:
    return (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def turned(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """RoPE on [position, size]: pair i is (x[i], x[i + size/2]) as one complex number, times exp(i angle)."""
    half = x.shape[-1] // 2
    speed = theta ** -(torch.arange(half, dtype=torch.float64) / half)
    pairs = torch.complex(x[..., :half].double(), x[..., half:].double())
    pairs = pairs * torch.polar(torch.ones(()).double(), positions[:, None].double() * speed)
    return torch.cat([pairs.real, pairs.imag], -1).float()


def forward(net: Network, ids: Tensor, change: Change | None = None) -> dict[tuple[str, int | None], Tensor]:
    """Every site of a Llama-shaped network on ids [batch, position], each after its change."""
    seen: dict[tuple[str, int | None], Tensor] = {}

    def at(name: str, layer: int | None, value: Tensor) -> Tensor:
        seen[name, layer] = (change or {}).get((name, layer), lambda v: v)(value)
        return seen[name, layer]

    p = dict(net.named_parameters())
    block = net.spec.body.block  # type: ignore[attr-defined]
    attention, count, eps = block.mix.resolved(net.spec.width), ids.shape[1], block.norm.eps
    assert isinstance(attention.position, RoPE) and isinstance(block.map, GLU)
    size, heads, kv_heads = attention.head_size, attention.heads, attention.kv_heads
    hidden_future = torch.arange(count)[:, None] < torch.arange(count)[None]

    x = at("embed", None, p["embed.weight"][ids])
    for i in range(net.spec.body.depth):  # type: ignore[attr-defined]
        own = {name.removeprefix(f"body.layers.{i}."): value for name, value in p.items()}
        x = at("resid_pre", i, x)
        normed = at("attn_in", i, x / at("attn_scale", i, rms(x, eps)) * own["mix_norm.weight"])
        rows = own["mix.qkv.weight"].split([heads * size, kv_heads * size, kv_heads * size])
        q, k, v = ((normed @ w.T).reshape(*ids.shape, -1, size) for w in rows)
        q, k = at("q_pre", i, q), at("k_pre", i, k)
        q, k = (
            torch.stack(
                [
                    torch.stack(
                        [turned(t[b, :, h], torch.arange(count), attention.position.theta) for b in range(len(t))]
                    )
                    for h in range(t.shape[2])
                ],
                2,
            )
            for t in (q, k)
        )
        q, k, v = at("q", i, q), at("k", i, k), at("v", i, v)
        kv_of = [h // (heads // kv_heads) for h in range(heads)]
        scores = torch.stack([q[:, :, h] @ k[:, :, kv_of[h]].mT / size**0.5 for h in range(heads)], 1)
        scores = at("scores", i, scores.masked_fill(hidden_future, -torch.inf))
        pattern = at("pattern", i, scores.exp() / scores.exp().sum(-1, keepdim=True))
        z = at("z", i, torch.stack([pattern[:, h] @ v[:, :, kv_of[h]] for h in range(heads)], 2))
        columns = own["mix.out.weight"].split(size, 1)
        at("head_out", i, torch.stack([z[:, :, h] @ columns[h].T for h in range(heads)], 2))
        x = at("resid_mid", i, x + at("attn_out", i, z.flatten(2) @ own["mix.out.weight"].T))
        normed = at("mlp_in", i, x / at("mlp_scale", i, rms(x, eps)) * own["map_norm.weight"])
        gate, up = (normed @ own["map.inner.weight"].T).chunk(2, -1)
        gate = at("mlp_pre", i, gate)
        act = at("mlp_act", i, gate / (1 + (-gate).exp()) * up)
        x = at("resid_post", i, x + at("mlp_out", i, act @ own["map.outer.weight"].T))
    x = x / at("final_scale", None, rms(x, net.spec.norm.eps)) * p["final_norm.weight"]  # type: ignore[attr-defined]
    x = at("final_norm", None, x)
    at("logits", None, x @ p.get("unembed.weight", p["embed.weight"]).T)
    return seen
