"""Direct logit attribution: it adds up in every family, and erasure, which it cannot see, is seen beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hand_built
import pytest
import torch
from sum_rules import check_sums, difference, total
from torch import Tensor

import cloche
import third_party
from cloche import GLU, LM, MLP, Attention, Block, LayerNorm, RoPE, Stack
from cloche.errors import ClocheError, ModelUnsupported
from cloche.interp import Materials, find_instrument, logit_attribution, read_options
from cloche.model import (
    Head,
    MoE,
    Network,
    NoNorm,
    Norm,
    RectifiedNorm,
    RMSNorm,
    Unembed,
    ZeroCenteredRMSNorm,
    save_network,
)
from cloche.runs import Run

EXPERTS = MoE(experts=4, active=2, expert=GLU(hidden=16, bias=True))
TREES = {
    "llama": LM(64, 32, Stack(2, Block(Attention(4, kv_heads=2, position=RoPE()), GLU(hidden=64)))),
    "post-norm": LM(
        64,
        32,
        Stack(2, Block(Attention(4, bias=True), MLP(bias=True), post=LayerNorm())),
        norm=LayerNorm(),
        head=Unembed(bias=True, cap=3.0),
    ),
    "experts, post-norm": LM(64, 32, Stack(2, Block(Attention(4), EXPERTS, post=ZeroCenteredRMSNorm()))),
    "rectified": LM(64, 32, Stack(2, Block(Attention(4), EXPERTS)), norm=RectifiedNorm(shift=0.2)),
    "third parties": LM(
        64, 32, third_party.Loop(3, Block(Attention(4), GLU(hidden=24))), norm=LayerNorm(), head=Unembed(bias=True)
    ),
    "convolutions": LM(64, 32, Stack(2, (Block(third_party.Convolution(3), GLU()), Block(Attention(4), GLU())))),
    "no norm": LM(64, 32, Stack(2, Block(Attention(4), GLU(), norm=NoNorm())), norm=NoNorm()),
}
PROMPT = [3, 9, 17, 4, 9]


def built(name: str, dtype: torch.dtype = torch.float32) -> Network:
    net = TREES[name].build(seed=3).to(dtype)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():  # no bias or gain stays where it hides a mistake
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return net


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("position", [-1, 2])
def test_contributions_sum_to_the_logit_difference_in_trees_of_ones_own(name: str, position: int) -> None:
    check_sums(built(name, torch.float64), PROMPT, position)


@pytest.mark.parametrize("name", TREES)
def test_in_single_precision_the_sum_is_as_exact_as_the_pass(name: str) -> None:
    finding = logit_attribution(cloche.Glass(built(name)), PROMPT)
    size = abs(finding.arrays["direct"]).sum()
    assert total(finding) == pytest.approx(finding.figures["difference"], abs=1e-5 * size)


@pytest.mark.parametrize("ablate", ["zero", "mean"])
@pytest.mark.parametrize("name", ["llama", "post-norm"])
def test_an_ablation_is_what_one_edited_run_gives(name: str, ablate: str) -> None:
    net = built(name, torch.float64)
    S, token, against, here = net.sites, 5, 11, 2
    clean = difference(net, PROMPT, token, against, position=here)
    saved = net.run([PROMPT], save=[*S.attn_out, *S.z, *S.mlp_act])

    def fall(site: Any) -> float:
        values = saved[site][0]
        value = torch.zeros_like(values[here]) if ablate == "zero" else values.mean(0)
        return clean - difference(net, PROMPT, token, against, site.replace(value).at(here), position=here)

    def unit(layer: int, i: int) -> float:
        values = saved[S.mlp_act[layer]][0]
        value = values[here].clone()
        value[i] = 0 if ablate == "zero" else values[:, i].mean()
        edit = S.mlp_act[layer].replace(value).at(here)
        return clean - difference(net, PROMPT, token, against, edit, position=here)

    wanted = {
        "component": {"attn_out[0]": fall(S.attn_out[0]), "attn_out[1]": fall(S.attn_out[1])},
        "head": {"z[0].head(1)": fall(S.z[0].head(1)), "z[1].head(3)": fall(S.z[1].head(3))},
        "neuron": {"mlp_act[0] unit 7": unit(0, 7), "mlp_act[1] unit 2": unit(1, 2)},
    }
    for by, expected in wanted.items():
        finding = logit_attribution(cloche.Glass(net), PROMPT, token, against, by, here, ablate)  # type: ignore[arg-type]
        at = dict(zip(finding.data["names"], finding.arrays["ablated"].tolist(), strict=True))
        for name_, value in expected.items():
            assert name_ not in at or at[name_] == pytest.approx(value, rel=1e-6, abs=1e-9)
        assert set(expected) & set(at)


@pytest.mark.parametrize("ablate", ["zero", "mean"])
@pytest.mark.parametrize("name", ["llama", "post-norm", "no norm"])
def test_a_pair_is_ablated_as_in_one_run_where_the_later_reads_what_is_left(name: str, ablate: str) -> None:
    net, here = built(name, torch.float64), 2
    saved = net.run([PROMPT], save=[*net.sites.z, *net.sites.attn_out, *net.sites.mlp_out])
    places = set()

    def removed(component: str) -> Any:
        site = net.sites.resolve(component)[0]
        return (site.zero() if ablate == "zero" else site.replace(saved[site][0].mean(0))).at(here)

    for by in ("component", "head"):
        for token, against in ((5, 11), (6, 40), (2, 33)):
            finding = logit_attribution(cloche.Glass(net), PROMPT, token, against, by, here, ablate)  # type: ignore[arg-type]
            for a, b, fall in finding.data["opposed"]:
                if "embedding" in a + b or "bias" in a + b:
                    continue
                places.add(net.sites.resolve(a)[0].whole == net.sites.resolve(b)[0].whole)
                left = difference(net, PROMPT, token, against, removed(a), removed(b), position=here)
                assert finding.figures["difference"] - left == pytest.approx(fall, rel=1e-6, abs=1e-9), (a, b)
    assert places == {True, False}, "of one branch, and of two"


def silenced(net: Network, *components: str) -> list[Any]:
    """Experts named there write nothing from now on; the edits that zero the rest of them."""
    edits = []
    for component in components:
        site, _, expert = component.partition(" expert ")
        if expert:
            outer: Any = net.layers[net.sites.resolve(site)[0].layer].map.experts[int(expert)].outer
            with torch.no_grad():
                outer.weight.zero_()
                outer.bias.zero_()
        else:
            edits.append((net.sites.embed if site == "token embedding" else net.sites.resolve(site)[0]).zero())
    return edits


def test_experts_are_ablated_alone_and_in_pairs_as_if_they_wrote_nothing() -> None:
    """On one token, so that nothing depends on what they write elsewhere."""
    name = "experts, post-norm"
    pairs = set()
    for token in range(7, 12):
        finding = logit_attribution(cloche.Glass(built(name, torch.float64)), [token], 5, 11, by="expert")
        alone = zip(finding.data["names"], finding.arrays["ablated"].tolist(), strict=True)
        for *components, fall in [*finding.data["opposed"], *alone]:
            net = built(name, torch.float64)
            edits = silenced(net, *components)
            assert finding.figures["difference"] - difference(net, [token], 5, 11, *edits) == pytest.approx(
                fall, rel=1e-6
            )
            pairs.add(sum("expert" in component for component in components))
    assert pairs == {0, 1, 2}


def test_the_unit_that_writes_the_answer_is_found() -> None:
    net = hand_built.answering()
    finding = logit_attribution(hand_built.glass(net), [4], token=9, against=4, by="neuron")
    at = dict(zip(finding.data["names"], finding.arrays["direct"].tolist(), strict=True))
    act = 12**0.5  # of the one-hot token after RMSNorm
    scale = ((4**2 + (3 * act) ** 2) / 12) ** 0.5
    assert at["mlp_act[1] unit 0"] == pytest.approx(3 * act / scale, rel=1e-5)
    assert at["token embedding"] == pytest.approx(-4 / scale, rel=1e-5)
    assert sum(abs(value) for value in at.values()) == pytest.approx((3 * act + 4) / scale, rel=1e-5)


def erasing() -> Network:
    """Head 0 of layer 0 writes three times the difference of tokens 1 and 2; head 1 of layer 1 reads that and takes it away."""
    block = Block(Attention(2), MLP("relu", hidden=4), norm=NoNorm())
    net = LM(8, 8, Stack(2, block), norm=NoNorm()).build(seed=0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.embed.weight[3, 5] = 1
        net.unembed_weight()[1, 0], net.unembed_weight()[2, 0] = 1, -1
        net.unembed_weight()[4:, 1:5] = torch.eye(4)
        for layer, head, reads, writes in ((0, 0, 5, 3.0), (1, 1, 0, -1.0)):
            mix = net.layers[layer].mix
            mix.qkv.weight[16 + 4 * head, reads] = 1  # the head's first value
            mix.out.weight[0, 4 * head] = writes
    return net


def test_an_erased_head_has_a_direct_contribution_and_no_effect() -> None:
    finding = logit_attribution(cloche.Glass(erasing()), [3], token=1, against=2, by="head")
    names = finding.data["names"]
    direct, ablated = (dict(zip(names, finding.arrays[key].tolist(), strict=True)) for key in ("direct", "ablated"))
    a, b = "z[0].head(0)", "z[1].head(1)"
    assert (direct[a], direct[b]) == (6, -6) and finding.figures["difference"] == 0
    assert (ablated[a], ablated[b]) == (0, -6), "without the writer there is nothing to erase"
    assert finding.data["opposed"] == [[a, b, 0.0]], "the pair does nothing"
    assert finding.figures["sign_errors"] == 0.5
    assert all(direct[name] == ablated[name] == 0 for name in names if name not in (a, b))


def test_what_writes_nothing_or_where_the_head_is_blind_adds_nothing() -> None:
    net = built("llama")
    with torch.no_grad():
        net.layers[1].mix.out.weight[:, 8:16] = 0  # head 1 of layer 1
        net.unembed_weight()[5] = net.unembed_weight()[11]
    finding = logit_attribution(cloche.Glass(net), PROMPT, by="head")
    dead = finding.data["names"].index("z[1].head(1)")
    assert finding.arrays["direct"][dead] == 0 and abs(finding.arrays["ablated"][dead]) < 1e-5
    blind = logit_attribution(cloche.Glass(net), PROMPT, 5, 11, by="head").arrays
    assert not blind["direct"].any() and not blind["ablated"].any()


def drawn(seed: int, strength: float = 0.0) -> float:
    """`p` of a random model in which an MLP's bias adds this much of the direction from token 3 to token 7."""
    net = LM(64, 16, Stack(1, Block(Attention(2), MLP(hidden=16, bias=True))), norm=RMSNorm()).build(seed)
    with torch.no_grad():
        apart: Tensor = net.unembed_weight()[7] - net.unembed_weight()[3]
        net.layers[0].map.outer.bias += strength * apart / apart.norm()
    prompt = torch.randint(64, (4,), generator=torch.Generator().manual_seed(seed)).tolist()
    return logit_attribution(cloche.Glass(net), prompt, 7, 3, ablate="none", seed=seed).figures["p"]


def test_random_models_have_no_large_contribution_and_planted_ones_do() -> None:
    assert sum(drawn(seed) <= 0.05 for seed in range(100)) <= 9
    assert sum(drawn(seed, strength=12.0) <= 0.05 for seed in range(100)) >= 90


@dataclass(frozen=True)
class Centred(Norm):
    def build(self, width: int, gain: float = 1.0) -> Any:
        return torch.nn.Identity()


@dataclass(frozen=True)
class Curved(Head):
    def build(self, width: int, vocab: int, tied: Any) -> Any:
        return Unembed().build(width, vocab, tied)


def test_what_is_no_sum_is_refused() -> None:
    fast = Block(Attention(4), GLU())
    two_speed = LM(64, 32, third_party.TwoSpeed(2, 2, fast, fast))
    for tree, sentence in (
        (two_speed, "its residual stream is not the sum of its sites"),
        (LM(64, 32, Stack(1, fast), norm=Centred()), "^Identity does not say what of it is held fixed"),
        (LM(64, 32, Stack(1, fast), head=Curved()), "through a linear head, and this model has Curved"),
    ):
        with pytest.raises(ModelUnsupported, match=sentence):
            logit_attribution(cloche.Glass(tree.build(seed=0)), PROMPT)


def test_the_step_at_which_a_writer_appears_is_its_onset(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", recipe="")
    for step in range(0, 600, 100):
        net = hand_built.answering() if step >= 300 else hand_built.echo()
        with run.new_checkpoint(step) as checkpoint:
            save_network(net, checkpoint)
    options = {"prompt": [[1, 4], [2, 4]], "token": 9, "against": 4, "by": "neuron", "figure": "difference"}
    assert cloche.trace(run, "logit-attribution", **options).figures["onset"] == 300


def test_options_are_read_from_text(tmp_path: Path) -> None:
    tokenizer = cloche.train_bpe(["a"], vocab=259)
    glass = cloche.Glass(LM(259, 32, Stack(1, Block(Attention(4), GLU()))).build(seed=0), tokenizer)
    name, function = find_instrument("logit_attribution")
    given = {"prompt": ["ab"], "token": ["5"], "against": ["c"], "by": ["head"], "position": ["0"]}
    finding = function(glass, **read_options(name, function, given, Materials(glass)))
    assert (finding.data["token"], finding.data["against"], finding.data["position"]) == ("5", "c", 0)
    assert "z[0].head(3)" in finding.text()


def test_defaults_are_the_likeliest_token_and_the_next() -> None:
    net = built("llama")
    first, second = net.run([PROMPT]).logits[0, -1].topk(2).indices.tolist()
    found = [
        logit_attribution(cloche.Glass(net), PROMPT, **given, ablate="none").data for given in ({}, {"token": first})
    ]
    assert all((data["token"], data["against"]) == (str(first), str(second)) for data in found)
    assert logit_attribution(cloche.Glass(net), PROMPT, against=first).data["token"] == str(second)


def test_what_cannot_be_attributed_is_one_sentence() -> None:
    tokenizer = cloche.train_bpe(["a"], vocab=259)
    text = cloche.Glass(LM(259, 32, Stack(1, Block(Attention(4), GLU()))).build(seed=0), tokenizer)
    glass = cloche.Glass(built("llama"))
    cases = {
        "by='layer' is not a way to divide": lambda: logit_attribution(glass, PROMPT, by="layer"),  # type: ignore[arg-type]
        "ablate='noise' is not an ablation": lambda: logit_attribution(glass, PROMPT, ablate="noise"),  # type: ignore[arg-type]
        "position=5 is outside the prompt": lambda: logit_attribution(glass, PROMPT, position=5),
        "token=64 is outside the vocabulary, 0 to 63": lambda: logit_attribution(glass, PROMPT, token=64),
        "no tokenizer to read against='x'": lambda: logit_attribution(glass, PROMPT, against="x"),
        "token='ab' must be one token, and it is 2": lambda: logit_attribution(text, "a", token="ab"),
        "token='' must be one token, and it is 0": lambda: logit_attribution(text, "a", token=""),
        "token=1.5 must be a token's text": lambda: logit_attribution(glass, PROMPT, token=1.5),
        "No layer of this model has experts": lambda: logit_attribution(glass, PROMPT, by="expert"),
        "one prompt at a time": lambda: logit_attribution(glass, [[1, 2], [3, 4]]),
    }
    for sentence, call in cases.items():
        with pytest.raises(ClocheError, match=sentence) as error:
            call()
        assert str(error.value).count(". ") == 0
