"""Bodies that iterate, written as a third party would: a loop over one block, and one of two speeds.

The loop is held against a stack of as many blocks with the same weights; the two speeds against their equations, written down
once more with the blocks alone.
"""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from combinations import VOCAB, lively, random_ids
from torch import Tensor

from cloche.decode import Session, generate
from cloche.errors import ClocheError
from cloche.interp import logit_lens
from cloche.model import (
    GLU,
    LM,
    Attention,
    Block,
    Context,
    Iterated,
    MoE,
    Network,
    RoPE,
    Stack,
    load_network,
    save_network,
)
from cloche.train import Health
from third_party import Loop, TwoSpeed

WIDTH, TIMES = 12, 3
IDS, PAD = random_ids(3, 9), [2, 0, 1]
ATTENTION = Attention(heads=4, kv_heads=2, head_size=4, position=RoPE(theta=30))
BLOCK, OTHER = Block(ATTENTION, GLU(hidden=10)), Block(Attention(heads=2, head_size=6), GLU(hidden=7))


@pytest.fixture(scope="module")
def loop() -> Network:
    return lively(LM(VOCAB, WIDTH, Loop(TIMES, BLOCK))).double()


@pytest.fixture(scope="module")
def stack(loop: Network) -> Network:
    """The loop unrolled: a stack with the weights of its block in every layer."""
    net = LM(VOCAB, WIDTH, Stack(TIMES, BLOCK)).build(seed=1).double()
    theirs = dict(loop.named_parameters())
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            first, _, rest = name.partition("body.layers.")
            parameter.copy_(theirs[first or f"body.block.{rest.partition('.')[2]}"])
    return net


@pytest.fixture(scope="module")
def two_speed() -> Network:
    return lively(LM(VOCAB, WIDTH, TwoSpeed(cycles=2, steps=2, fast=BLOCK, slow=OTHER))).double()


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


class Reference:
    """What the two speeds compute, and every site on the way; `change(name, iteration, value)` may put others there."""

    def __init__(self, net: Network, ids: Tensor, change: Any = lambda name, iteration, value: value) -> None:
        self.sites: dict[tuple[str, int | None], Tensor] = {}
        self.change = change
        context = Context.over(ids, record=self)
        x = self("embed", None, net.embed(ids))
        fast, slow, iteration = torch.zeros_like(x), torch.zeros_like(x), 0
        for _ in range(2):
            for _ in range(2):
                fast = net.body.fast(fast + slow + x, context, iteration, None)[0]
                iteration += 1
            slow = net.body.slow(slow + fast, context, iteration, None)[0]
            iteration += 1
        self.logits = self("logits", None, net.unembed(self("final_norm", None, net.final_norm(slow))))

    def wants(self, name: str, layer: int | None) -> bool:
        return name in ("scores", "pattern")

    def __call__(self, name: str, layer: int | None, value: Tensor) -> Tensor:
        self.sites[name, layer] = self.change(name, layer, value)
        return self.sites[name, layer]


def edits_of(net: Network) -> list[Any]:
    """A few kinds of edit in every iteration, at several positions."""
    v, edits = torch.linspace(-1, 1, WIDTH, dtype=torch.float64), []
    for i in range(len(net.layers)):
        s = net.sites
        edits += [
            s.resid_pre[i].add(v).at(4),
            s.z[i].head(1).zero(),
            s.mlp_act[i].scale(0.5).at("last"),
            s.resid_post[i].project_out(v).at(slice(3, None)),
            s.pattern[i].head(0).scale(0.7).at(5),
        ]
    return [*edits, net.sites.embed.add(v).at(2), net.sites.final_norm.scale(2.0), (edits[0], edits[-1])]


def test_a_loop_is_its_unrolled_stack_at_every_site_and_under_every_edit(loop: Network, stack: Network) -> None:
    assert [str(site) for site in loop.sites] == [str(site) for site in stack.sites]
    assert sum(p.numel() for p in loop.body.parameters()) * TIMES == sum(p.numel() for p in stack.body.parameters())
    for pad in (None, PAD):
        ours, theirs = (net.run(IDS, save=list(net.sites), pad=pad) for net in (loop, stack))
        for site in loop.sites:
            same(ours[site], theirs[site])
        for edit, twin in zip(edits_of(loop), edits_of(stack), strict=True):
            same(loop.run(IDS, edits=edit, pad=pad).logits, stack.run(IDS, edits=twin, pad=pad).logits)


def test_an_edit_is_of_one_iteration_alone(loop: Network) -> None:
    clean, edited = (loop.run(IDS, save=loop.sites.z.all, edits=e) for e in ((), loop.sites.z[1].zero()))
    assert torch.equal(clean["z[0]"], edited["z[0]"]) and not edited["z[1]"].any() and edited["z[2]"].any()


def test_two_speeds_are_their_equations_at_every_site_and_under_edits(two_speed: Network) -> None:
    truth, result = Reference(two_speed, IDS), two_speed.run(IDS, save=list(two_speed.sites))
    same(result.logits, truth.logits)
    assert len(two_speed.layers) == 6
    for site in two_speed.sites:
        if (site.name, site.layer) in truth.sites:
            same(result[site], truth.sites[site.name, site.layer])
    for iteration in range(6):
        for name in ("resid_pre", "mlp_act", "z", "resid_post"):
            changed = Reference(
                two_speed, IDS, lambda n, i, value, at=(name, iteration): value * 0.5 if (n, i) == at else value
            )
            edit = getattr(two_speed.sites, name)[iteration].scale(0.5)
            same(two_speed.run(IDS, edits=edit).logits, changed.logits)


@pytest.mark.parametrize("name", ["loop", "two_speed"])
@pytest.mark.parametrize("pad", [None, PAD])
def test_a_sweep_is_its_edits_one_by_one(name: str, pad: Any, request: pytest.FixtureRequest) -> None:
    net = request.getfixturevalue(name)
    edits = edits_of(net)
    real = torch.arange(IDS.shape[1]) >= torch.tensor(pad or [0, 0, 0])[:, None]
    for rows in (4, 1000):
        swept = net.sweep(IDS, edits, lambda logits: logits, pad=pad, rows=rows)
        for edit, logits in zip(edits, swept, strict=True):
            same(logits[real], net.run(IDS, edits=edit, pad=pad).logits[real])


@pytest.mark.parametrize("name", ["loop", "two_speed"])
def test_a_sweep_runs_what_an_edit_can_change_and_no_more(name: str, request: pytest.FixtureRequest) -> None:
    net, tokens = request.getfixturevalue(name), []
    count = len(net.layers)
    handles = [
        block.register_forward_pre_hook(lambda _, given: tokens.append(given[0].shape[0] * given[0].shape[1]))
        for block in set(net.layers)
    ]
    try:
        net.sweep(IDS[:1], [net.sites.z[count - 1].head(h).zero() for h in range(2)], lambda logits: logits)
    finally:
        for handle in handles:
            handle.remove()
    assert sum(tokens) == 9 * (count + 2)  # a clean pass, then the last iteration for two edits


@pytest.mark.parametrize("name", ["loop", "two_speed"])
def test_cached_generation_is_the_whole_pass(name: str, request: pytest.FixtureRequest) -> None:
    net = request.getfixturevalue(name)
    s, last = net.sites, len(net.layers) - 1
    edits = [s.resid_post[1].add(torch.ones(WIDTH, dtype=torch.float64)).at("new"), s.z[last].head(1).zero()]
    out = generate(net, IDS, new=6, edits=edits, save=[s.resid_post.all, s.pattern[last]], pad=PAD)
    for row, skip in enumerate(PAD):  # each row by itself, whole and without padding
        ids = out.ids[row : row + 1, skip:]
        at = s.resid_post[1].add(torch.ones(WIDTH, dtype=torch.float64)).at(slice(9 - skip, None))
        whole = net.run(ids, edits=[at, edits[1]], save=s.resid_post.all)
        assert torch.equal(whole.logits[0, 8 - skip : -1].argmax(-1), out.ids[row, 9:])
        same(out.saved[s.resid_post.all][:, row : row + 1, skip:], whole[s.resid_post.all])
    session = Session(net, IDS, None, new=0)
    for chunk in IDS.split((4, 3, 2), 1):
        logits = session.feed(chunk)
    same(logits, net(IDS)[:, -1])
    assert len(session.states) == len(net.layers) and len({id(state) for state in session.states}) == len(net.layers)


def test_the_lens_reads_every_iteration(loop: Network, stack: Network, two_speed: Network) -> None:
    def lens(net: Network) -> Any:
        return logit_lens(SimpleNamespace(net=net, tokenizer=None, checkpoint="x"), IDS[:1], top=3)

    ours, theirs = lens(loop), lens(stack)
    assert ours.data["layers"] == ["embed", "resid_post[0]", "resid_post[1]", "resid_post[2]"]
    for name, array in ours.arrays.items():
        torch.testing.assert_close(torch.as_tensor(array), torch.as_tensor(theirs.arrays[name]))
    truth, found = Reference(two_speed, IDS[:1]), lens(two_speed)
    assert len(found.data["layers"]) == 7
    for i in range(6):
        logits = two_speed.unembed(two_speed.final_norm(truth.sites["resid_post", i]))[0]
        assert torch.equal(torch.as_tensor(found.arrays["top_ids"])[1 + i], logits.topk(3).indices)


def test_health_is_that_of_the_unrolled_stack(loop: Network, stack: Network) -> None:
    records = []
    for net in (copy.deepcopy(loop).float(), copy.deepcopy(stack).float()):
        health = Health(net)
        health.before()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(1.25)
        records.append(health.record(1, IDS, 2.0))
    ours, theirs = records
    assert ours["update_ratio"] == pytest.approx([0.25] * (TIMES + 1))
    for name, value in theirs.items():
        torch.testing.assert_close(torch.tensor(ours[name]), torch.tensor(value), rtol=1e-5, atol=1e-6)


def test_health_of_two_speeds_is_one_row_for_each_iteration(two_speed: Network) -> None:
    net = copy.deepcopy(two_speed).float()
    health = Health(net, rows=3, queries=9)
    health.before()
    with torch.no_grad():
        for parameter in net.body.slow.parameters():
            parameter.mul_(1.5)
    record = health.record(1, IDS, 0.0)
    assert record["update_ratio"] == pytest.approx([0, 0, 0, 0.5, 0, 0, 0.5], abs=1e-6)
    result = net.run(IDS, save=list(net.sites.pattern))
    for i, entropy in enumerate(record["attention_entropy"]):
        pattern = result[net.sites.pattern[i]][:, :, 1:]
        share = torch.special.entr(pattern).sum(-1) / torch.arange(2, 10).log()
        assert entropy == pytest.approx(share.mean(dim=(0, 2)).tolist(), abs=1e-4)
    assert [len(heads) for heads in record["attention_entropy"]] == [4, 4, 2, 4, 4, 2]
    assert len(record["resid_variance"]) == 7 and len(record["dead_units"]) == 6


def test_cost_is_counted_by_use(loop: Network, stack: Network, two_speed: Network) -> None:
    for length in (1, 64):
        assert loop.flops_per_token(length) == stack.flops_per_token(length)
        of = {block: LM(VOCAB, WIDTH, Stack(1, block)).build(None).flops_per_token(length) for block in (BLOCK, OTHER)}
        head = 3 * 2 * VOCAB * WIDTH
        assert two_speed.flops_per_token(length) == 4 * (of[BLOCK] - head) + 2 * (of[OTHER] - head) + head
    experts = Block(ATTENTION, MoE(experts=4, active=2, expert=GLU(hidden=8)))
    looped, plain = (LM(VOCAB, WIDTH, body).build(None) for body in (Loop(4, experts), Stack(4, experts)))
    assert looped.flops_per_token(32) == plain.flops_per_token(32)


def test_a_body_with_matrices_of_its_own_must_say_what_they_cost(loop: Network) -> None:
    from cloche.model.declare import Linear

    net = copy.deepcopy(loop)
    net.body.adapter = Linear(WIDTH, WIDTH, 0.1)
    with pytest.raises(ClocheError, match=r"Loop has matrices of its own .* define flops_per_token"):
        net.flops_per_token(8)


def test_gradients_of_shared_weights_add_up(loop: Network, stack: Network) -> None:
    for net in (loop, stack):
        net.zero_grad()
        net(IDS).square().mean().backward()
    of_loop = dict(loop.body.block.named_parameters())
    for name, parameter in of_loop.items():
        assert parameter.grad is not None
        same(parameter.grad, torch.stack([b.get_parameter(name).grad for b in stack.layers]).sum(0))  # type: ignore[misc]


def test_iterations_have_names(loop: Network, stack: Network, two_speed: Network) -> None:
    assert loop.sites.z[2].iteration == "pass 2" and stack.sites.z[2].iteration == "layer 2"
    assert [site.iteration for site in two_speed.sites.z] == [
        "fast 0.0", "fast 0.1", "slow 0", "fast 1.0", "fast 1.1", "slow 1",
    ]  # fmt: skip
    assert str(two_speed.sites.z) == "z in fast 0.0 [0] to slow 1 [5]"
    with pytest.raises(ClocheError, match=r"There is no z\[3\]: this model has z in pass 0 \[0\] to pass 2 \[2\]"):
        loop.sites.resolve("z[3]")
    assert "1 layers in 3 iterations" in repr(loop) and "3 layers of width" in repr(stack)


def test_what_cannot_be_folded_is_refused(loop: Network, two_speed: Network) -> None:
    for net, name in ((loop, "Loop"), (two_speed, "TwoSpeed")):
        with pytest.raises(ClocheError, match=f"a Stack, whose blocks each have weights of their own.*{name}"):
            net.folded()


@pytest.mark.parametrize("name", ["loop", "two_speed"])
def test_saved_and_loaded(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    net = copy.deepcopy(request.getfixturevalue(name)).float()
    save_network(net, tmp_path / "model")
    again = load_network(tmp_path / "model")
    assert again.spec == net.spec and torch.equal(again(IDS), net(IDS))
    assert [name for name, _ in again.named_parameters()] == [name for name, _ in net.named_parameters()]


def test_a_pass_stops_before_the_first_iteration_that_nobody_asked_for(two_speed: Network) -> None:
    calls: list[int] = []
    handle = two_speed.body.fast.register_forward_hook(lambda *_: calls.append(1))
    try:
        result = two_speed.run(IDS, save="mlp_out[1]", logits=False)
    finally:
        handle.remove()
    assert len(calls) == 2 and torch.equal(result["mlp_out[1]"], two_speed.run(IDS, save="mlp_out[1]")["mlp_out[1]"])


def test_iterations_run_from_anywhere(two_speed: Network) -> None:
    """start and stop: the pass in two pieces is the whole pass."""
    body, context = two_speed.body, Context.over(IDS)
    assert isinstance(body, Iterated)
    x = two_speed.embed(IDS)
    whole, _ = body(x, context, None, 0, 6)
    for cut in range(1, 6):
        half, _ = body(x, context, None, 0, cut)
        same(body(half, context, None, cut, 6)[0], whole)
