"""Activations that other libraries kept, read under our names. bench/bridges/transformer_lens.py makes the golden file, and
compares models of three families whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cloche import GLU, LM, Attention, Block, Learned, RMSNorm, RoPE, Stack
from cloche.errors import ClocheError
from cloche.model import Network, read_cache

GOLDEN = json.loads((Path(__file__).parent / "golden" / "transformer_lens.json").read_text())


@pytest.fixture(scope="module")
def net() -> Network:
    return LM(32, 8, Stack(1, Block(Attention(4, kv_heads=2, position=RoPE()), GLU(hidden=12)))).build(seed=0)


@pytest.fixture(scope="module")
def hooks() -> dict[str, torch.Tensor]:
    return {name: torch.tensor(each["values"]).view(each["shape"]) for name, each in GOLDEN["cache"].items()}


def test_transformer_lens_cache_holds_what_our_pass_saves(net: Network, hooks: dict[str, torch.Tensor]) -> None:
    theirs = read_cache(net, hooks)
    sites = theirs.plan.saves
    ours = net.run(GOLDEN["ids"], save=sites)
    assert {"resid_post[0]", "z[0]", "q[0]", "k[0]", "pattern[0]", "mlp_act[0]", "attn_scale[0]"} <= {*map(str, sites)}
    for site in sites:
        torch.testing.assert_close(theirs[site], ours[site], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(theirs.logits, ours.logits, atol=1e-4, rtol=1e-4)
    assert "no site here" in theirs.notes[0]


def test_a_cache_is_a_source_of_edits(net: Network, hooks: dict[str, torch.Tensor]) -> None:
    theirs = read_cache(net, hooks)
    patched = net.run([[9, 2, 6]], edits=[net.sites.resid_pre[0].replace(theirs)])
    torch.testing.assert_close(patched.logits, net.run(GOLDEN["ids"]).logits, atol=1e-4, rtol=1e-4)


def test_paths_of_modules_are_read(net: Network) -> None:
    ours = net.run(GOLDEN["ids"], save=["resid_post[0]", "z[0]", "mlp_act[0]", "attn_out[0]"])
    theirs = read_cache(
        net,
        {
            "model.layers.0.output": (ours["resid_post[0]"], None),
            "model.layers.0.self_attn.o_proj.input": ours["z[0]"].flatten(2),
            "model.layers[0].mlp.down_proj.input": ours["mlp_act[0]"][0],
            "model.layers.0.self_attn.output": ours["attn_out[0]"],
        },
    )
    assert theirs.notes == []
    for site in ours.plan.saves:
        assert torch.equal(theirs[site], ours[site])


def test_what_differs_here_is_left_out() -> None:
    learned = LM(32, 8, Stack(1, Block(Attention(2), GLU(hidden=12))), position=Learned(8)).build(seed=0)
    x = torch.zeros(1, 3, 8)
    assert read_cache(learned, {"hook_embed": x, "blocks.0.hook_resid_pre": x}).notes == [
        "1 names have no site here, such as hook_embed."
    ]
    post = LM(32, 8, Stack(1, Block(Attention(2), GLU(hidden=12), post=RMSNorm()))).build(seed=0)
    found = read_cache(post, {"model.layers.0.mlp.output": x, "model.layers.0.output": x})
    assert [str(site) for site in found.plan.saves] == ["resid_post[0]"]


def test_bad_caches(net: Network) -> None:
    with pytest.raises(ClocheError, match="None of the 1 names"):
        read_cache(net, {"blocks.0.hook_nothing": torch.zeros(1)})
    with pytest.raises(ClocheError, match="None of the 0 names"):
        read_cache(net, {})
    with pytest.raises(ClocheError, match="does not fit resid_post"):
        read_cache(net, {"blocks.0.hook_resid_post": torch.zeros(1, 3, 9)})
    with pytest.raises(ClocheError, match="None of the 1 names"):
        read_cache(net, {"blocks.7.hook_resid_post": torch.zeros(1, 3, 8)})
