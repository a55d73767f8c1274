"""Path patching: every edge against the same edge made by edited runs, in every kind of block, and edges that are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import cloche
import third_party
from cloche import GLU, LM, MLP, Attention, Block, Glass, LayerNorm, RoPE, Stack, Window
from cloche.errors import ClocheError
from cloche.interp import KLDivergence, activation_patching, path_patching
from cloche.interp.patching.edges import EdgePasses, Receiver, Sender, receivers, senders
from cloche.model import (
    AllHeads,
    Causal,
    ClampedGLU,
    Full,
    Learned,
    MoE,
    Network,
    NoNorm,
    ParallelBlock,
    RMSNorm,
    ScoredAttention,
    Unembed,
    ZeroCenteredRMSNorm,
)
from cloche.tasks import Add, PromptPair

VOCAB = 259
GROUPED = Attention(4, kv_heads=2, position=RoPE(), mask=Causal() & Window(4))
CAPPED = ScoredAttention(GROUPED, scale=0.4, cap=2.0)
SINKS = ScoredAttention(Attention(2, kv_heads=1, bias=True), sinks=True)
CENTRED = ZeroCenteredRMSNorm()
BIASED = Attention(2, bias=True)
TREES = {
    "llama": LM(40, 16, Stack(3, Block(GROUPED, GLU(hidden=24)))),
    "gpt2": LM(40, 16, Stack(3, Block(BIASED, MLP(bias=True), LayerNorm())), LayerNorm(), position=Learned(9)),
    "neox": LM(40, 16, Stack(3, ParallelBlock(BIASED, MLP(bias=True), LayerNorm())), LayerNorm()),
    "gemma2": LM(40, 16, Stack(3, Block(CAPPED, GLU("gelu_tanh"), CENTRED, CENTRED)), CENTRED, Unembed(cap=3.0)),
    "olmo2": LM(40, 16, Stack(2, Block(Attention(2, qk_norm=AllHeads()), GLU(hidden=24), NoNorm(), RMSNorm()))),
    "gpt_oss": LM(40, 16, Stack(3, Block(SINKS, MoE(4, 2, ClampedGLU(hidden=16, bias=True, limit=0.5))))),
    "two ways": LM(40, 16, Stack(1, Block(Attention(2, mask=Full()), GLU(hidden=24)))),
    "loop": LM(40, 16, third_party.Loop(2, Block(Attention(2), MLP("sigmoid", bias=True)))),
}
BASE, SOURCE = torch.tensor([[3, 9, 17, 4, 9, 22]]), torch.tensor([[3, 9, 30, 4, 5, 22]])


def built(spec: LM, seed: int = 3) -> Network:
    net = spec.build(seed=seed).double()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():  # no bias or gain stays where it hides a mistake
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return net


class Runs:
    """Edges made of edited runs: the receiver's value where the stream it reads has the sender's change, then a run with it."""

    def __init__(self, net: Network) -> None:
        self.net, self.S = net, net.sites
        self.source = net.run(SOURCE, save=[self.S.embed, self.S.z.all, self.S.mlp_out.all])
        self.base = net.run(BASE, save=[self.S.embed, self.S.attn_out.all, self.S.mlp_out.all, self.S.resid_post.all])

    def delta(self, sender: Sender) -> Tensor:
        site = self.S.resolve(sender.name)[0]
        if site.name != "z":
            return self.source[site] - self.base[site]
        out = self.S.attn_out[site.layer]
        return self.net.run(BASE, save=[out], edits=[site.replace(self.source)])[out] - self.base[out]

    def edit(self, receiver: Receiver, delta: Tensor, before: list) -> object:
        """What the receiver's edge does, after the edits `before`."""
        if receiver.part == "logits":
            return self.S.resid_post[len(self.net.layers) - 1].add(delta)
        site = self.S.resolve(receiver.name.replace("mlp_in", "mlp_out"))[0]
        sequential = receiver.part == "mlp_in" and "resid_mid" in self.net.layers[receiver.layer].declared_sites
        stream = (self.S.resid_mid if sequential else self.S.resid_pre)[receiver.layer]
        return site.replace(self.net.run(BASE, save=[site.whole], edits=[*before, stream.add(delta)])[site])

    def logits(self, sender: Sender, receiver: Receiver, mode: str) -> Tensor:
        edit = self.edit(receiver, self.delta(sender), [])
        if mode == "frozen" and receiver.part != "logits":
            out = (self.S.mlp_out if receiver.part == "mlp_in" else self.S.attn_out)[receiver.layer]
            moved = self.net.run(BASE, save=[out], edits=[edit])[out] - self.base[out]
            edit = self.S.resid_post[len(self.net.layers) - 1].add(moved)
        return self.net.run(BASE, edits=[edit]).logits[0, -1]


@pytest.fixture(scope="module", params=TREES)
def net(request: pytest.FixtureRequest) -> Network:
    return built(TREES[request.param])


@pytest.mark.parametrize("mode", ["free", "frozen"])
def test_an_edge_is_what_edited_runs_give(net: Network, mode: str) -> None:
    runs, writing, wanted = Runs(net), senders(net), receivers(net, "all")
    found = EdgePasses(net, BASE, SOURCE, mode).values(writing, wanted, lambda rows: rows)  # type: ignore[arg-type]
    plain, number = net.run(BASE).logits[0, -1], 0
    for i, sender in enumerate(writing):
        for j, receiver in enumerate(wanted):
            number += 1
            if sender.order >= receiver.order:
                assert torch.equal(found[i, j], plain), (sender, receiver)
            elif number % 3 == i % 3:
                assert (found[i, j] - runs.logits(sender, receiver, mode)).abs().max() < 1e-8, (sender, receiver)


def test_all_edges_out_of_a_sender_together_are_the_sender_patched(net: Network) -> None:
    runs = Runs(net)
    for sender in (senders(net)[0], senders(net)[1], senders(net)[-2]):
        edits: list = []
        for receiver in sorted(receivers(net, "all"), key=lambda each: each.order):
            if sender.order < receiver.order:
                edits.append(runs.edit(receiver, runs.delta(sender), edits))
        together = net.run(BASE, edits=edits).logits[0, -1]
        site = net.sites.resolve(sender.name)[0]
        patched = net.run(BASE, edits=[site.replace(runs.source)]).logits[0, -1]
        assert (together - patched).abs().max() < 1e-6, sender


def test_edges_go_forward_alone(net: Network) -> None:
    order = {each.name: each.order for each in (*senders(net), *receivers(net, "all"))}
    parallel = "resid_mid" not in net.layers[0].declared_sites
    assert (order["z[0].head(0)"] < order["mlp_in[0]"]) is not parallel
    assert order["embed"] < order["q[0].head(0)"] <= order["z[0].head(0)"] < order["mlp_out[0]"] < order["logits"]
    if len(net.layers) > 1:
        assert order["mlp_out[0]"] < order["k[1].head(0)"] <= order["z[1].head(0)"]


def test_a_prompt_patched_with_itself_changes_nothing(net: Network) -> None:
    for mode in ("free", "frozen"):
        passes = EdgePasses(net, BASE, BASE, mode)  # type: ignore[arg-type]
        logits, writing, wanted = net.run(BASE).logits[0, -1], senders(net), receivers(net, "all")
        assert torch.equal(
            passes.values(writing, wanted, lambda rows: rows), logits.expand(len(writing), len(wanted), -1)
        )
        computed = passes.values(writing, wanted, lambda rows: rows, dead=True)
        assert (computed - logits).abs().max() < 1e-12


@pytest.fixture(scope="module")
def tokenizer() -> cloche.Tokenizer:
    return cloche.train_bpe(["a"], vocab=VOCAB)


def composed(tokenizer: cloche.Tokenizer) -> Network:
    """Layer 0 spreads whether A or B was read, where layer 1 asks with it: its query finds C after A, and D after B."""
    block = Block(Attention(1), MLP("relu", hidden=4), norm=NoNorm())
    net = LM(VOCAB, 6, Stack(2, block), norm=NoNorm()).build(seed=0)
    a, b, c, d = (tokenizer.encode(each)[0] for each in "ABCD")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        for i, token in enumerate((a, b, c, d)):
            net.embed.weight[token, i] = 1.0  # the stream: A, B, C, D, then what layer 0 writes of A and B
            net.unembed_weight()[token, i] = float(i > 1)
        (first, second), eye = (layer.mix for layer in net.layers), torch.eye(2)
        first.qkv.weight[12:14, :2] = eye  # values are A and B
        first.out.weight[4:, :2] = eye
        second.qkv.weight[:2, 4:] = 40 * eye  # queries
        second.qkv.weight[6:8, 2:4] = 40 * eye  # keys
        second.qkv.weight[12:14, 2:4] = eye  # values
        second.out.weight[2:4, :2] = eye
    return net


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_a_composition_through_queries_is_one_edge(tokenizer: cloche.Tokenizer, direction: str) -> None:
    glass = Glass(composed(tokenizer), tokenizer)
    task = PromptPair("ACD", "BCD", "C", "D")
    finding = path_patching(glass, task, "all", direction=direction)  # type: ignore[arg-type]
    effects = torch.as_tensor(finding.arrays["effects"][0])
    names = finding.data["senders"], finding.data["receivers"]
    seen = {(names[0][u], names[1][v]): float(effects[u, v]) for u, v in effects.nonzero().tolist()}
    known = {("embed", "v[0].head(0)"), ("z[0].head(0)", "q[1].head(0)"), ("z[1].head(0)", "logits")}
    assert {edge for edge, effect in seen.items() if abs(effect) > 1e-6} == known
    assert list(seen.values()) == pytest.approx([1.0] * len(seen))
    one = path_patching(glass, task, "q[1].head(0)", direction=direction)  # type: ignore[arg-type]
    assert one.figures["largest"] == pytest.approx(1) and "from z[0].head(0) to q[1].head(0)" in one.summary


def test_in_a_linear_model_edges_sum(tokenizer: cloche.Tokenizer) -> None:
    """No norm, no activation, uniform patterns: the edges into a receiver sum to what patching it does, and by the direct
    path to its own edge into the logits."""
    block = Block(Attention(2), MLP("identity", hidden=16), norm=NoNorm())
    net = LM(VOCAB, 16, Stack(2, block), norm=NoNorm()).build(seed=0).double()
    with torch.no_grad():
        for layer in net.layers:
            layer.mix.qkv.weight[:32] = 0
    glass, task = Glass(net, tokenizer), PromptPair("ab cd", "ab ce", "x", "y")
    direct = path_patching(glass, task)
    effect = dict(zip(direct.data["senders"], direct.arrays["effects"][0, :, 0].tolist(), strict=True))
    assert sum(effect.values()) == pytest.approx(1, abs=1e-6)
    patched = activation_patching(glass, task, "mlp_out").arrays["effects"][0].sum(1)
    heads = activation_patching(glass, task, "z").arrays["effects"][0]
    for receiver, whole, own in (
        ("mlp_in[0]", patched[0], "mlp_out[0]"),
        ("mlp_in[1]", patched[1], "mlp_out[1]"),
        ("v[1].head(1)", heads[1, 1], "z[1].head(1)"),
        ("v[0].head(0)", heads[0, 0], "z[0].head(0)"),
    ):
        assert path_patching(glass, task, receiver).arrays["effects"].sum() == pytest.approx(float(whole), abs=1e-6)
        frozen = path_patching(glass, task, receiver, mode="frozen").arrays["effects"].sum()
        assert frozen == pytest.approx(effect[own], abs=1e-6)
    assert path_patching(glass, task, "q[1]").figures["largest"] == pytest.approx(
        0, abs=1e-9
    )  # its pattern does not move


def test_a_finding_names_its_mode_and_its_edges(tokenizer: cloche.Tokenizer) -> None:
    glass = Glass(LM(VOCAB, 32, Stack(2, Block(Attention(4, kv_heads=2), GLU(hidden=24)))).build(seed=1), tokenizer)
    with torch.no_grad():
        glass.net.layers[0].mix.out.weight[:, 8:16] = 0  # head 1 of layer 0 writes nothing
    free = path_patching(glass, Add(), "all", pairs=3)
    frozen = path_patching(glass, Add(), "all", mode="frozen", metric=KLDivergence(), pairs=2)
    assert "free: everything after the receiver" in free.summary and "frozen: everything off the path" in frozen.summary
    assert free.arrays["effects"].shape == (3, 11, 2 * 9 + 1) and free.arrays["edges"].sum() == 8 * 7 + 5 + 10 + 11
    assert abs(free.arrays["effects"][:, 2]).max() == 0 < abs(free.arrays["effects"][:, 1]).max()
    assert free.null is not None and free.null["largest"] < 1e-5 and "p" in free.figures and "p" not in frozen.figures
    whole = path_patching(glass, Add(), "k[1]", pairs=2)
    assert whole.panels[0].columns == ("embed", "h0", "h1", "h2", "h3", "mlp")  # type: ignore[union-attr]
    assert whole.panels[0].rows == ("layer 0", "before the layers")  # type: ignore[union-attr]


def test_what_cannot_be_patched_is_one_sentence(tokenizer: cloche.Tokenizer) -> None:
    glass = Glass(LM(VOCAB, 16, Stack(1, Block(Attention(2), GLU(hidden=24)))).build(seed=1), tokenizer)
    slow = Block(Attention(2), GLU(hidden=24))
    two = Glass(LM(VOCAB, 16, third_party.TwoSpeed(1, 1, slow, slow)).build(seed=1), tokenizer)
    cases = {
        "reads no stream of its own": lambda: path_patching(glass, Add(), "z[0].head(1)"),
        "There is no q": lambda: path_patching(glass, Add(), "q[3].head(1)"),
        "must be free or frozen": lambda: path_patching(glass, Add(), mode="slow"),  # type: ignore[arg-type]
        "its edges are unknown": lambda: path_patching(two, Add()),
        "two prompts of one length": lambda: EdgePasses(glass.net, BASE, SOURCE[:, 1:]),
    }
    for sentence, call in cases.items():
        with pytest.raises(ClocheError, match=sentence) as error:
            call()
        assert str(error.value).count(". ") == 0
