"""Vital signs against planted truth."""

import pytest
import torch

from cloche.model import GLU, LM, MLP, Attention, Block, Causal, Context, Full, MoE, ScoredAttention, Stack, Window
from cloche.train import Health
from cloche.train.monitors.health import DEAD_AFTER, active_units, entropy_share

ROWS = torch.tensor([3, 7, 15])


def ids(rows=2, length=16, vocab=50, seed=0):
    return torch.randint(vocab, (rows, length), generator=torch.Generator().manual_seed(seed))


def network(map=None, **attention):
    block = Block(mix=Attention(**{"heads": 4, **attention}), map=map or GLU("silu", hidden=24))
    return LM(vocab=50, width=32, body=Stack(3, block)).build(0)


def entropy_of(q, k, mask, rows):
    """[head]: of plain attention with these q and k [batch, position, head, size]."""
    heads, size = q.shape[2:]
    mix = Attention(heads, kv_heads=k.shape[2], head_size=size, mask=mask).build(width=8, std=1.0)
    return entropy_share(*mix.pattern_rows(rows, q, k))


@pytest.mark.parametrize("mask", [Causal(), Full(), Causal() & Window(4)])
def test_uniform_attention_has_entropy_one(mask):
    k = torch.randn(2, 16, 2, 8)
    entropy = entropy_of(torch.zeros(2, 16, 4, 8), k, mask, ROWS)
    torch.testing.assert_close(entropy, torch.ones(4))


def test_one_hot_attention_has_entropy_zero():
    k = torch.zeros(1, 16, 2, 8)
    k[:, 0] = 100.0
    entropy = entropy_of(torch.full((1, 16, 2, 8), 100.0), k, Causal(), ROWS)
    torch.testing.assert_close(entropy, torch.zeros(2))


def test_two_equal_keys_of_sixteen_have_a_quarter():
    k = torch.zeros(1, 16, 1, 8)
    k[:, :2] = 100.0
    entropy = entropy_of(torch.full((1, 16, 1, 8), 100.0), k, Full(), ROWS)
    torch.testing.assert_close(entropy, torch.tensor([0.25]))


def test_a_row_that_sees_one_key_has_no_say():
    q = k = torch.zeros(1, 16, 1, 8)
    entropy = entropy_of(q, k, Causal(), torch.tensor([0, 15]))
    torch.testing.assert_close(entropy, torch.ones(1))


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_sampled_entropy_is_that_of_the_pattern(kv_heads):
    net = network(kv_heads=kv_heads)
    result = net.run(ids(), save=["q[1]", "k[1]", "pattern[1]"])
    rows = torch.arange(1, 16)
    pattern = result["pattern[1]"][:, :, rows]  # [batch, head, row, key]
    direct = (torch.special.entr(pattern).sum(-1) / (rows + 1.0).log()).mean(dim=(0, 2))
    torch.testing.assert_close(entropy_of(result["q[1]"], result["k[1]"], Causal(), rows), direct)


@pytest.mark.parametrize(
    "change", [{"scale": 1.7}, {"cap": 0.4}, {"sinks": True}, {"scale": 2.0, "cap": 1.5, "sinks": True}]
)
def test_sampled_entropy_knows_scale_cap_and_sinks(change):
    spec = network().spec
    mix = ScoredAttention(Attention(heads=4, kv_heads=2), **change)
    net = LM(50, 32, Stack(3, Block(mix, spec.body.block.map))).build(0)
    if "sinks" in change:
        with torch.no_grad():
            net.layers[1].mix.sinks.copy_(torch.tensor([-1.0, 0.0, 1.0, 9.0]))
    result = net.run(ids(), save=["q[1]", "k[1]", "pattern[1]"])
    rows = torch.arange(0 if "sinks" in change else 1, 16)  # with a sink the first token has a choice too
    pattern = result["pattern[1]"][:, :, rows].double()  # [batch, head, row, key]
    keys = rows + 1.0
    if "sinks" in change:  # what a row does not read, its sink holds
        pattern, keys = torch.cat([pattern, 1 - pattern.sum(-1, keepdim=True)], -1), keys + 1
        assert pattern[:, 3, :, -1].min() > 0.9
    direct = (torch.special.entr(pattern.clamp(min=0)).sum(-1) / keys.log()).mean(dim=(0, 2)).float()
    given = entropy_share(*net.layers[1].mix.pattern_rows(rows, result["q[1]"], result["k[1]"]))
    torch.testing.assert_close(given, direct, rtol=1e-4, atol=1e-4)
    ignored = entropy_of(result["q[1]"], result["k[1]"], Causal(), rows)
    assert (ignored - direct).abs().max() > 1e-3  # the control: leaving them out shows
    health = Health(net, queries=16)
    health.before()
    torch.testing.assert_close(
        torch.tensor(health.record(1, ids(), 0.0)["attention_entropy"][1]), direct, rtol=1e-4, atol=2e-4
    )


def test_a_record_has_the_shapes_agreed():
    net, health = network(), None
    health = Health(net)
    health.before()
    record = health.record(7, ids(rows=5), 1.5)
    assert (record["step"], record["grad_norm"]) == (7, 1.5)
    assert len(record["resid_variance"]) == len(record["update_ratio"]) == 4
    assert [len(heads) for heads in record["attention_entropy"]] == [4, 4, 4]
    assert len(record["activation_density"]) == len(record["dead_units"]) == 3
    assert all(0 <= share <= 1 for heads in record["attention_entropy"] for share in heads)
    assert record["update_ratio"] == [0.0] * 4


def test_residual_variance_and_logit_norm_equal_a_pass_by_hand():
    net, x = network(), ids()
    health = Health(net)
    health.before()
    record = health.record(1, x, 0.0)
    stream, variances = net.embed(x), []
    variances.append(torch.var(stream).item())
    for block in net.layers:
        context = Context.over(x)
        stream = stream + block.mix(block.mix_norm(stream), context, 0, None)[0]
        stream = stream + block.map(block.map_norm(stream), context, 0)[0]
        variances.append(torch.var(stream).item())
    assert record["resid_variance"] == pytest.approx(variances, rel=1e-5)
    assert record["logit_norm"] == pytest.approx(net(x).square().mean().sqrt().item(), rel=1e-5)


def test_update_ratio_is_the_relative_length_of_the_step():
    net = network()
    health = Health(net)
    health.before()
    with torch.no_grad():
        for p in net.layers[1].parameters():
            p.mul_(1.25)
    assert health.record(1, ids(), 0.0)["update_ratio"] == pytest.approx([0, 0, 0.25, 0], abs=1e-6)


def test_planted_dead_units_are_found_and_no_others():
    net = network(map=MLP("relu", hidden=20, bias=True))
    with torch.no_grad():
        net.layers[1].map.inner.bias[:5] = -1e3
    health = Health(net)
    shares = []
    for seed in range(DEAD_AFTER):
        health.before()
        shares.append(health.record(seed, ids(seed=seed), 0.0)["dead_units"])
    assert shares[-1] == [0.0, 0.25, 0.0]


def test_a_unit_that_dies_later_is_found_once_it_was_silent_long_enough():
    net = network(map=MLP("relu", hidden=20, bias=True))
    health, shares = Health(net), []
    for seed in range(2 * DEAD_AFTER):
        if seed == 3:
            with torch.no_grad():
                net.layers[0].map.inner.bias[0] = -1e3
        health.before()
        shares.append(health.record(seed, ids(seed=seed), 0.0)["dead_units"][0])
    assert shares[DEAD_AFTER] == 0.0 and shares[-1] == pytest.approx(0.05)


def test_activation_density_is_the_share_above_a_hundredth_of_the_rms():
    x = torch.full((1, 4, 100), 1e-3)
    x[..., :30] = -1.0
    assert active_units(x).float().mean().item() == pytest.approx(0.3)


def test_the_memory_of_dead_units_restores():
    net = network(map=MLP("relu", hidden=20))
    health, other = Health(net), Health(net)
    health.before()
    health.record(1, ids(), 0.0)
    other.restore(health.state())
    for h in (health, other):
        h.before()
    assert health.record(2, ids(seed=1), 0.0) == other.record(2, ids(seed=1), 0.0)


def test_layers_of_experts_among_others_leave_their_places_empty():
    moe = Block(mix=Attention(heads=4), map=MoE(4, 2, GLU(hidden=8)))
    dense = Block(mix=Attention(heads=4), map=GLU(hidden=24))
    for blocks, kinds in (((moe, dense), [type(None), float, type(None)]), (moe, [])):
        net = LM(vocab=50, width=32, body=Stack(3, blocks)).build(0)
        health = Health(net)
        for step in range(3):
            health.before()
            record = health.record(step, ids(), 1.0)
        assert [type(v) for v in record["activation_density"]] == [type(v) for v in record["dead_units"]] == kinds
        assert len(record["attention_entropy"]) == 3
        restored = Health(net)
        restored.restore(health.state())
        health.before(), restored.before()
        assert restored.record(4, ids(), 1.0) == health.record(4, ids(), 1.0)


@pytest.mark.parametrize(("shape", "rows"), [((8, 256), 1), ((2, 300), 1), ((2, 16), 2), ((16, 64), 4), ((6, 16), 3)])
def test_sequences_with_256_positions_are_run_and_no_more(shape, rows):
    net = LM(50, 8, Stack(1, Block(Attention(2), GLU(hidden=4)))).build(0)
    ran = []
    net.body.register_forward_hook(lambda module, given, out: ran.append(given[0].shape[0]))
    health = Health(net)
    health.before()
    health.record(1, torch.zeros(shape, dtype=torch.long), 0.0)
    assert ran == [rows]
