"""Sites: their shapes, their values against a second implementation, their text."""

from __future__ import annotations

import copy
import pickle

import pytest
import reference
import torch
from combinations import NUMBERS, close, combination, lively, random_ids

from cloche.errors import ClocheError
from cloche.model import GLU, LM, MLP, Attention, Block, Network, RMSNorm, RoPE, Site, Stack, site
from cloche.model.sites.vocabulary import AXES

B, T, D, H, K, S, M, V, L = 2, 7, 20, 6, 2, 4, 18, 13, 3


@pytest.fixture(scope="module")
def net() -> Network:
    attention = Attention(heads=H, kv_heads=K, head_size=S, position=RoPE(theta=50))
    return lively(LM(V, D, Stack(L, Block(mix=attention, map=GLU(hidden=M), norm=RMSNorm(1e-4)))))


IDS = random_ids(B, T, V)
SHAPES = {
    **dict.fromkeys(("embed", "resid_pre", "attn_in", "attn_out", "resid_mid", "mlp_in"), (B, T, D)),
    **dict.fromkeys(("mlp_out", "resid_post", "final_norm"), (B, T, D)),
    **dict.fromkeys(("q_pre", "q", "z"), (B, T, H, S)),
    **dict.fromkeys(("k_pre", "k", "v"), (B, T, K, S)),
    **dict.fromkeys(("scores", "pattern"), (B, H, T, T)),
    **dict.fromkeys(("mlp_pre", "mlp_act"), (B, T, M)),
    **dict.fromkeys(("attn_scale", "mlp_scale", "final_scale"), (B, T, 1)),
    "head_out": (B, T, H, D),
    "logits": (B, T, V),
}


def test_every_site_has_its_shape(net: Network) -> None:
    assert set(SHAPES) == set(AXES) - {"router"} == set(dir(net.sites))  # the one a mixture of experts adds
    every = list(net.sites)
    assert len(every) == 4 + 20 * L
    result = net.run(IDS, save=every)
    for found in every:
        assert result[found].shape == SHAPES[found.name], found
        assert len(found.axes) == result[found].dim()
    for head in range(K):
        assert torch.equal(result[net.sites.k[1].head(head)], result["k[1]"][:, :, head])
    for head in range(H):
        assert torch.equal(result[net.sites.pattern[1].head(head)], result["pattern[1]"][:, head])
        assert result[net.sites.z[1].head(head)].shape == (B, T, S)


def test_every_site_equals_the_reference(net: Network) -> None:
    truth = reference.forward(net, IDS)
    result = net.run(IDS, save=list(net.sites))
    for found in net.sites:
        close(result[found], truth[found.name, found.layer])
    close(result.logits, truth["logits", None])
    close(net(IDS), truth["logits", None])


def test_pattern_is_the_softmax_of_the_scores(net: Network) -> None:
    result = net.run(IDS, save=[net.sites.pattern.all, net.sites.scores.all])
    pattern, scores = result[net.sites.pattern.all], result[net.sites.scores.all]
    close(pattern.sum(-1), torch.ones(L, B, H, T))
    close(pattern, scores.softmax(-1))
    assert (pattern.triu(1) == 0).all() and (scores.triu(1)[..., 0, 1:] == -torch.inf).all()


@pytest.mark.parametrize("layer", range(L))
def test_seeing_the_pattern_of_one_layer_changes_nothing(net: Network, layer: int) -> None:
    plain = net(IDS)
    for name in ("pattern", "scores"):
        close(net.run(IDS, save=[f"{name}[{layer}]"]).logits, plain)


@pytest.mark.parametrize("number", NUMBERS)
def test_saving_everything_changes_nothing(number: int) -> None:
    net = lively(combination(number))
    ids = random_ids(2, 6)
    result = net.run(ids, save=list(net.sites))
    close(result.logits, net(ids))
    with torch.no_grad():
        assert torch.equal(net.run(ids, save=[net.sites.resid_post.all]).logits, net(ids))
    for found in net.sites:
        assert result[found].shape[0] == 2 and result[found].isnan().sum() == 0


def test_layers_stack(net: Network) -> None:
    sites = net.sites
    result = net.run(IDS, save=[sites.resid_post.all, sites.z.all])
    stacked = result[sites.resid_post.all]
    assert stacked.shape == (L, B, T, D) and result["z.all"].shape == (L, B, T, H, S)
    for layer in range(L):
        assert torch.equal(stacked[layer], result[sites.resid_post[layer]])
    assert torch.equal(result[sites.resid_post[1:]], stacked[1:])
    assert torch.equal(result["resid_post.all"], stacked)
    assert torch.equal(result[sites.resid_post], stacked)
    assert sites.resid_post.all in result and "v[0]" not in result and sites.z[1].head(2) in result


def test_text_and_attributes_name_the_same_values(net: Network) -> None:
    sites = net.sites
    for found in sites:
        assert site(str(found)) == found and hash(site(str(found))) == hash(found)
    assert site("z[2].head(1)") == sites.z[2].head(1) == Site("z", 2, 1)
    assert site(" logits ") == sites.logits and str(sites.z[2].head(1)) == "z[2].head(1)"
    assert sites.resid_post[-1] == sites.resid_post[L - 1]
    assert list(sites.q) == [sites.q[0], sites.q[1], sites.q[2]] and len(sites.q) == L
    assert sites.resolve("resid_post.all") == list(sites.resid_post)


def test_one_site_or_its_text_need_no_list(net: Network) -> None:
    assert net.run(IDS, save="z[0]")["z[0]"].shape == (B, T, H, S)
    assert net.run(IDS, save=net.sites.z[0])["z[0]"].shape == (B, T, H, S)
    assert net.run(IDS, save=net.sites.z.all)["z.all"].shape == (L, B, T, H, S)


def test_a_head_saves_only_where_asked_and_is_found_again(net: Network) -> None:
    result = net.run(IDS, save=[net.sites.z[1].head(3)])
    assert torch.equal(result["z[1].head(3)"], net.run(IDS, save="z[1]")["z[1]"][:, :, 3])


def test_stopping_early_saves_the_same_values(net: Network) -> None:
    sites, calls = net.sites, []
    handles = [block.register_forward_hook(lambda *_, i=i: calls.append(i)) for i, block in enumerate(net.layers)]
    try:
        early = net.run(IDS, save=[sites.embed, sites.mlp_act[1], sites.resid_pre[0]], logits=False)
        assert calls == [0, 1]
        calls.clear()
        only_embed = net.run(IDS, save=[sites.embed], logits=False)
        assert calls == []
    finally:
        for handle in handles:
            handle.remove()
    whole = net.run(IDS, save=[sites.embed, sites.mlp_act[1], sites.resid_pre[0]])
    for found in (sites.embed, sites.mlp_act[1], sites.resid_pre[0]):
        assert torch.equal(early[found], whole[found])
    assert torch.equal(only_embed["embed"], whole["embed"])
    for result in (early, only_embed):
        with pytest.raises(ClocheError, match="stopped before the logits"):
            _ = result.logits
    late = net.run(IDS, save=[sites.final_norm], logits=False)
    close(late["final_norm"], net.hidden(IDS))


def test_layers_of_unlike_blocks() -> None:
    """Where only some layers have a site, its numbers stay the layers' own, and heads are counted in each."""
    from test_parts import Doubled

    many = Block(mix=Attention(heads=4), map=Doubled())
    few = Block(mix=Attention(heads=2, kv_heads=1), map=MLP(hidden=5))
    net = lively(LM(V, 8, Stack(4, (many, few))))
    sites = net.sites
    assert [s.layer for s in sites.mlp_act] == [1, 3] and sites.mlp_act[3] == Site("mlp_act", 3)
    assert sites.mlp_act[-1] == Site("mlp_act", 3) and len(sites.mlp_act[:3]) == 1
    result = net.run(IDS, save=list(sites))
    assert result["mlp_act[3]"].shape == (B, T, 5) and result["mlp_act.all"].shape == (2, B, T, 5)
    assert result["z[0].head(3)"].shape == (B, T, 2) and result["z[1].head(1)"].shape == (B, T, 4)
    for wrong in (lambda: sites.mlp_act[0], lambda: sites.mlp_act[4], lambda: sites.mlp_act[2:3]):
        with pytest.raises(ClocheError, match="mlp_act in layers 1, 3"):
            wrong()
    with pytest.raises(ClocheError, match=r"z\[1\] has heads 0 to 1"):
        net.run(IDS, edits=[sites.z[1].head(3).zero()])
    with pytest.raises(ClocheError, match=r"k\[1\] has heads 0 to 0"):
        net.run(IDS, save=[sites.k[1].head(1)])


def test_networks_can_be_copied(net: Network) -> None:
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(IDS), net(IDS))
        with torch.no_grad():
            twin.embed.weight.mul_(2)
        assert not torch.equal(twin(IDS), net(IDS))
        assert torch.equal(twin.run(IDS, save="embed")["embed"], 2 * net.run(IDS, save="embed")["embed"])
