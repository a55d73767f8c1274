"""Matrices laid by columns: the same network, in another order of memory."""

from __future__ import annotations

import pytest
import torch

from cloche.decode import generate, lay_by_columns
from cloche.model import GLU, LM, MLP, Attention, Block, Learned, RoPE, Stack, load_network, save_network

ROTARY = Block(mix=Attention(heads=4, kv_heads=2, head_size=4, position=RoPE()), map=GLU(hidden=10))
BIASED = Block(mix=Attention(heads=3, bias=True), map=MLP("gelu_tanh", hidden=10, bias=True))
SPECS = {
    "rotary": LM(19, 12, Stack(3, ROTARY)),
    "tied": LM(19, 12, Stack(2, BIASED), tied=True, position=Learned(20)),
}
IDS = torch.randint(19, (2, 6), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SPECS)
def test_the_same_network(name: str, tmp_path) -> None:
    plain, net = (SPECS[name].build(seed=1) for _ in range(2))
    parameters = list(net.parameters())
    assert lay_by_columns(net) is net and all(a is b for a, b in zip(parameters, net.parameters(), strict=True))
    assert net.layers[0].mix.qkv.weight.stride() == (1, net.layers[0].mix.qkv.weight.shape[0])
    for (_, a), (_, b) in zip(plain.named_parameters(), net.named_parameters(), strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(net(IDS), plain(IDS), rtol=1e-5, atol=1e-5)
    assert generate(net, IDS, new=8, pad=[2, 0]).new == generate(plain, IDS, new=8, pad=[2, 0]).new
    save_network(net, tmp_path)
    for (_, a), (_, b) in zip(plain.named_parameters(), load_network(tmp_path).named_parameters(), strict=True):
        assert torch.equal(a, b)
    assert (net.unembed_weight() is net.embed.weight) == SPECS[name].tied


def test_gradients_are_the_same() -> None:
    plain, net = (SPECS["rotary"].build(seed=1) for _ in range(2))
    for each in (plain, lay_by_columns(net)):
        each(IDS)[..., 0].sum().backward()
    for (_, a), (_, b) in zip(plain.named_parameters(), net.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-5)
