"""Initialisations: the moments of the weights they draw, and that the default draws what it always drew."""

from __future__ import annotations

import hashlib

import pytest
import torch

from cloche import GLU, LM, MLP, Attention, Block, Stack
from cloche.errors import ClocheError, ModelUnsupported
from cloche.model import FanIn, MuP, Normal, Orthogonal, Xavier


def spec(width: int = 64, depth: int = 2, **others) -> LM:
    return LM(96, width, Stack(depth, Block(Attention(2), MLP("gelu"))), **others)


def test_the_default_draws_what_it_always_drew() -> None:
    net = LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0)
    stored = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in net.parameters())).hexdigest()[:16]
    assert stored == "89a8159cb5f0717b"
    given = LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(0, FanIn())
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), given.parameters(), strict=True))


@pytest.mark.parametrize("how", [Xavier(), Normal(), Orthogonal(), MuP(base_width=16)])
def test_norms_and_biases_are_left_as_declared(how) -> None:
    plain, other = spec().build(0), spec().build(0, how)
    for name, p in plain.groups()["vector"]:
        assert torch.equal(p, other.get_parameter(name))
    assert torch.equal(other.embed.weight, spec().build(0, how).embed.weight)
    assert not torch.equal(plain.unembed.weight, other.unembed.weight)


def test_xavier_sees_the_matrices_that_share_a_tensor() -> None:
    net, plain = spec().build(0, Xavier()), spec().build(0)
    layer, before = net.layers[0], plain.layers[0]
    assert torch.allclose(layer.mix.qkv.weight, before.mix.qkv.weight)  # each of q, k and v is square
    assert torch.allclose(layer.map.inner.weight, before.map.inner.weight * (2 * 64 / (64 + 256)) ** 0.5)


def test_orthogonal_matrices_keep_length_and_the_deviation_of_fan_in() -> None:
    net, plain = spec().build(0, Orthogonal()), spec().build(0)
    inner = net.layers[0].map.inner.weight.double()  # [256, 64]
    x = torch.randn(10, 64, dtype=torch.float64)
    lengths = (x @ inner.T).norm(dim=1) / x.norm(dim=1)
    assert lengths.std() < 1e-6 * lengths.mean()
    for name, p in plain.groups()["matrix"]:
        assert net.get_parameter(name).square().mean().sqrt().item() == pytest.approx(
            p.square().mean().sqrt().item(), rel=0.05
        )


def test_mup_is_fan_in_at_its_base_and_its_head_is_smaller_above() -> None:
    base, plain = spec(64).build(0, MuP(base_width=64)), spec(64).build(0)
    assert all(torch.equal(a, b) for a, b in zip(base.parameters(), plain.parameters(), strict=True))
    wide, plain = spec(256).build(0, MuP(base_width=64)), spec(256).build(0)
    assert torch.allclose(wide.unembed.weight, plain.unembed.weight / 2)
    assert torch.equal(wide.layers[0].mix.qkv.weight, plain.layers[0].mix.qkv.weight)


def test_mup_refuses_a_head_that_shares_the_embeddings() -> None:
    with pytest.raises(ModelUnsupported, match="tied = false"):
        spec(tied=True).build(0, MuP())
    with pytest.raises(ClocheError, match="Normal"):
        Normal(std=-1.0)
