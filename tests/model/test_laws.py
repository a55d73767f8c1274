"""The laws every composition of parts keeps: causality, cached = full, save and load, variance at birth, declarations."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from combinations import LENGTH, NUMBERS, VOCAB, close, combination, lively, random_ids
from torch import Tensor

from cloche.decode import Session
from cloche.model import (
    GLU,
    LM,
    MLP,
    Attention,
    Block,
    ClampedGLU,
    Context,
    Full,
    LayerNorm,
    Learned,
    Map,
    MoE,
    Network,
    NoNorm,
    NoPosition,
    Norm,
    ParallelBlock,
    RectifiedNorm,
    RMSNorm,
    RoPE,
    Shifted,
    Stack,
    Unembed,
    ZeroCenteredRMSNorm,
    gain,
    load_network,
    save_network,
)
from cloche.model.lm import TIED_STD
from cloche.model.maps.activations import ACTIVATIONS, activation

over_all = pytest.mark.parametrize("number", NUMBERS)
over_some = pytest.mark.parametrize("number", NUMBERS[::3])


@over_all
def test_causality(number: int) -> None:
    net, ids = lively(combination(number)), random_ids(2, 9)
    plain = net(ids)
    for place in (1, 5, 8):
        other = ids.clone()
        other[:, place] = (other[:, place] + 1) % VOCAB
        changed = net(other)
        if "router" in dir(net.sites):  # an expert multiplies the tokens it is sent together, and their number rounds
            close(changed[:, :place], plain[:, :place], 1e-6)
        else:
            assert torch.equal(changed[:, :place], plain[:, :place])
        assert not torch.equal(changed[:, place], plain[:, place])


def test_a_full_mask_is_not_causal() -> None:
    """The control: the law above can fail."""
    net = lively(LM(VOCAB, 8, Stack(2, Block(mix=Attention(heads=2, mask=Full()), map=MLP()))))
    ids = random_ids(1, 6)
    other = ids.clone()
    other[:, 5] = (other[:, 5] + 1) % VOCAB
    assert not torch.allclose(net(other)[:, 0], net(ids)[:, 0])


@over_all
def test_cached_equals_full(number: int) -> None:
    net, ids = lively(combination(number)), random_ids(2, 11)
    with torch.no_grad():
        plain = net(ids)
        for cuts in ([11], [1] * 11, [4, 1, 3, 1, 1, 1], [7, 4]):
            states, start, parts = net.new_states(2, 11), 0, []
            for count in cuts:
                chunk = ids[:, start : start + count]
                parts.append(net.logits(chunk, Context.over(chunk, start), states))
                start += count
            close(torch.cat(parts, 1), plain)


@over_all
def test_left_padding_equals_each_row_alone(number: int) -> None:
    net, pad = lively(combination(number)), [0, 2, 5]
    ids = random_ids(3, 8)
    result = net.run(ids, save=list(net.sites), pad=pad)
    for row, skip in enumerate(pad):
        alone = net.run(ids[row : row + 1, skip:], save=list(net.sites))
        close(result.logits[row, skip:], alone.logits[0])
        for found in net.sites:
            value = result[found][row]
            if "query" in found.axes:
                close(value[:, skip:, skip:], alone[found][0])
                if found.name == "pattern":
                    assert (value[:, skip:, :skip] == 0).all()
            else:
                close(value[skip:], alone[found][0])


@over_some
def test_padded_session_equals_each_row_alone(number: int) -> None:
    net, pad, prompt, ids = lively(combination(number)), [3, 0], 6, random_ids(2, 10)
    plain = [net(ids[row : row + 1, skip:])[0] for row, skip in enumerate(pad)]
    for cuts in ([6, 1, 1, 1, 1], [2, 4, 1, 3], [5, 1, 2, 2]):
        session, start = Session(net, ids[:, :prompt], torch.tensor(pad), new=4), 0
        for count in cuts:
            logits = session.feed(ids[:, start : start + count])
            start += count
            for row, skip in enumerate(pad):
                if start > skip:
                    close(logits[row], plain[row][start - 1 - skip])


@over_all
def test_save_and_load_is_bit_identical(number: int, tmp_path) -> None:
    net = lively(combination(number))
    save_network(net, tmp_path / "a")
    back = load_network(tmp_path / "a")
    assert back.spec == net.spec and back.spec.hash == net.spec.hash
    ours, theirs = net.state_dict(), back.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    ids = random_ids(1, 5)
    assert torch.equal(back(ids), net(ids))
    save_network(back, tmp_path / "b")
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def _deep(mapping: Map, norm: RMSNorm | LayerNorm, tied: bool, position: str) -> LM:
    attention = Attention(heads=4, kv_heads=2, position=RoPE() if position == "rope" else NoPosition())
    learned = Learned(64) if position == "learned" else None
    return LM(512, 64, Stack(24, Block(mix=attention, map=mapping, norm=norm)), norm=norm, tied=tied, position=learned)


def _rebuilt(spec: LM, kind: type[Block], **changes: Norm) -> LM:
    block = spec.body.block
    fields = {"mix": block.mix, "map": block.map, "norm": block.norm} | changes
    return dataclasses.replace(spec, body=Stack(24, kind(**fields)))


DEEP = {
    **{f"mlp {name}": _deep(MLP(name), RMSNorm(), False, "rope") for name in ACTIVATIONS},
    **{f"glu {name}": _deep(GLU(name), RMSNorm(), False, "rope") for name in ACTIVATIONS},
    "tied": _deep(GLU(), RMSNorm(), True, "rope"),
    "layer norm, learned": _deep(MLP(), LayerNorm(), True, "learned"),
    "no position": _deep(GLU(), LayerNorm(bias=False), False, "none"),
    "both branches at once": _rebuilt(_deep(GLU(), RMSNorm(), False, "rope"), ParallelBlock),
    "normed after": _rebuilt(_deep(GLU(), RMSNorm(), False, "rope"), Block, norm=NoNorm(), post=RMSNorm()),
    "normed on both sides": dataclasses.replace(
        _rebuilt(_deep(GLU(), ZeroCenteredRMSNorm(), True, "rope"), Block, post=ZeroCenteredRMSNorm()), embed_scale=8.0
    ),
    "shifted and rectified": _rebuilt(
        _deep(GLU(Shifted("relu", 0.25)), RMSNorm(), False, "rope"), Block, norm=RectifiedNorm(RMSNorm(), 1.0)
    ),
    "rectified after": _rebuilt(
        _deep(MLP(Shifted("gelu", 0.5)), RMSNorm(), False, "rope"), Block, post=RectifiedNorm(LayerNorm(), 0.5)
    ),
    "clamped glu": _deep(ClampedGLU(), RMSNorm(), False, "rope"),
    "experts": _deep(MoE(6, 2), RMSNorm(), False, "rope"),
    "experts, not normalised": _deep(MoE(6, 3, normalise=False), RMSNorm(), True, "rope"),
}


@pytest.mark.parametrize("name", DEEP)
def test_variance_at_birth(name: str) -> None:
    """24 layers keep the stream's variance within the factor 2 their branches add, and predict nothing yet."""
    net = DEEP[name].build(seed=1)
    with torch.no_grad():
        result = net.run(random_ids(2, 48, 512), save=[net.sites.embed, net.sites.resid_post.all])
    stream = result["resid_post.all"].var(dim=(1, 2, 3)) / result["embed"].var()
    assert stream.min() > 0.9 and stream.max() < 2.5, stream
    assert stream[-1] > 1.2, stream  # the branches do say something
    expected = TIED_STD * 64**0.5 if net.spec.tied else 1.0
    assert 0.7 < result.logits.std() / expected < 1.4
    chance = torch.log(torch.tensor(512.0))
    loss = torch.nn.functional.cross_entropy(result.logits.flatten(0, 1), random_ids(2, 48, 512, seed=5).flatten())
    assert abs(loss - chance) < 0.8


@pytest.mark.parametrize("name", DEEP)
def test_each_branch_brings_its_share(name: str) -> None:
    """Where attention has one key to look at, it and the map add 1/sqrt(48) of the embedding's deviation each."""
    net = DEEP[name].build(seed=2)
    with torch.no_grad():
        result = net.run(random_ids(64, 1, 512), save=["attn_out.all", "mlp_out.all"])
    share = net.spec.stream_std * 48**-0.5
    for site in ("attn_out.all", "mlp_out.all"):
        ratio = result[site].square().mean().sqrt() / share
        assert 0.85 < ratio < 1.15, (site, ratio)


@pytest.mark.parametrize("name", [*ACTIVATIONS, Shifted("relu", 0.25), Shifted("gelu", -1.0)])
def test_gain_against_sampling(name: str | Shifted) -> None:
    z = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0))
    assert activation(name)(z).mul(gain(name)).square().mean().item() == pytest.approx(1, rel=0.01)


def test_gain_against_closed_forms() -> None:
    assert gain("identity") == pytest.approx(1, abs=1e-9)
    assert gain("relu") == pytest.approx(2**0.5, abs=1e-3)
    assert gain("relu2") == pytest.approx((2 / 3) ** 0.5, abs=1e-3)


def test_one_seed_one_network() -> None:
    spec = combination(3)
    a, b, c = spec.build(seed=7), spec.build(seed=7), spec.build(seed=8)
    state = a.state_dict()
    assert all(torch.equal(state[name], value) for name, value in b.state_dict().items())
    drawn = [name for name, declared in a.declarations().items() if declared.std]
    assert drawn and not any(torch.equal(state[name], c.state_dict()[name]) for name in drawn)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    spec.build(seed=7)
    assert torch.equal(torch.get_rng_state(), before)  # nor does it touch torch's own generator


def test_a_parameter_does_not_depend_on_the_others() -> None:
    small = LM(11, 8, Stack(2, Block(mix=Attention(heads=2), map=MLP(hidden=12))))
    big = dataclasses.replace(
        small, body=Stack(2, Block(mix=Attention(heads=2, bias=True), map=GLU(hidden=5))), tied=False
    )
    a, b = small.build(seed=0).state_dict(), big.build(seed=0).state_dict()
    for name in ("embed.weight", "unembed.weight", "body.layers.1.mix.qkv.weight", "body.layers.0.mix.out.weight"):
        assert torch.equal(a[name], b[name])
    values = [a[f"body.layers.{i}.mix.qkv.weight"] for i in range(2)]
    assert not torch.equal(*values)


@over_all
def test_declarations_cover_every_parameter(number: int) -> None:
    net = combination(number).build()
    declared, parameters = net.declarations(), dict(net.named_parameters())
    assert set(parameters) <= set(declared) and set(declared) - set(parameters) <= {"unembed.weight"}
    groups = net.groups()
    assert sorted(name for group in groups.values() for name, _ in group) == sorted(parameters)
    assert all(p.dim() == 2 for name in ("matrix", "embedding") for _, p in groups[name])
    assert all(p.dim() == 1 for _, p in groups["vector"])
    for name, parameter in parameters.items():
        rows = net.blocks(name)
        assert rows[0][0] == 0 and rows[-1][1] == parameter.shape[0]
        assert all(a[1] == b[0] for a, b in itertools.pairwise(rows))
    assert len(net.blocks("body.layers.0.mix.qkv.weight")) == 3
    if net.spec.tied:
        assert net.unembed.weight is net.embed.weight and "unembed.weight" not in parameters


def test_flops_by_hand() -> None:
    """width 8, 4 heads of 3 sharing 2 key heads, gate of 5, vocabulary 11, 2 layers, 7 tokens."""
    attention = Attention(heads=4, kv_heads=2, head_size=3)
    untied = LM(11, 8, Stack(2, Block(mix=attention, map=GLU(hidden=5))))
    weights = 2 * (8 * 12 + 2 * 8 * 6 + 12 * 8 + 3 * 8 * 5) + 8 * 11
    scores_and_values = 2 * (2 * 2 * 4 * 3 * 7)
    expected = 3 * (2 * weights + scores_and_values)
    assert untied.build().flops_per_token(7) == expected
    assert dataclasses.replace(untied, tied=True).build().flops_per_token(7) == expected
    learned = dataclasses.replace(untied, position=Learned(32), head=Unembed(bias=True))
    assert learned.build().flops_per_token(7) == expected  # looked up and added, not multiplied


def test_flops_of_experts_are_those_a_token_meets() -> None:
    """width 8, 2 of 5 experts with a gate of 3, a router, one layer."""
    spec = LM(11, 8, Stack(1, Block(mix=Attention(heads=2), map=MoE(5, 2, GLU(hidden=3)))))
    weights = 4 * 8 * 8 + 2 * (3 * 8 * 3) + 5 * 8 + 8 * 11
    assert spec.build().flops_per_token(7) == 3 * (2 * weights + 2 * 2 * 8 * 7)


def test_hidden_and_unembedding_make_the_logits() -> None:
    net, ids = lively(combination(0)), random_ids(2, LENGTH)
    logits: Tensor = net.hidden(ids) @ net.unembed_weight().T
    bias = net.unembed.bias
    close(logits if bias is None else logits + bias, net(ids))


def test_double_precision_passes_through() -> None:
    net: Network = lively(combination(1)).double()
    ids = random_ids(1, 6)
    assert net(ids).dtype == torch.float64
    steered = net.run(ids, edits=[net.sites.resid_post[0].add(torch.ones(net.spec.width))])
    assert steered.logits.dtype == torch.float64


def test_autocast_caches_in_its_own_dtype() -> None:
    net, ids = lively(combination(2)), random_ids(2, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        session = Session(net, ids, None, new=2)
        assert session.states[0].keys.dtype == torch.bfloat16
        logits = session.feed(ids)
    close(logits.float(), net(ids)[:, -1], 0.15)
