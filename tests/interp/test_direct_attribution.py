"""direct_attribution: sums to the logit difference in every kind of body, is beside the ablation, and shows erasure."""

from __future__ import annotations

import pytest
import torch

import cloche
from cloche import GLU, LM, MLP, Attention, Block, LayerNorm, Learned, RMSNorm, RoPE, Stack, Unembed
from cloche.errors import ClocheError
from cloche.interp import direct_attribution
from cloche.interp.attribution.agreement import pearson, sign_errors
from cloche.model import MoE, NoNorm, ParallelBlock
from cloche.tasks import Add, PromptPair

VOCAB = 259
MODELS = {
    "llama": LM(VOCAB, 32, Stack(2, Block(Attention(4, kv_heads=2, position=RoPE()), GLU()))),
    "gpt2": LM(
        VOCAB, 32, Stack(2, Block(Attention(4, bias=True), MLP("gelu", hidden=64, bias=True), norm=LayerNorm(bias=True))),
        norm=LayerNorm(bias=True), position=Learned(64), tied=True,
    ),
    "post-norms, capped": LM(
        VOCAB, 32, Stack(2, Block(Attention(4), GLU(), post=RMSNorm())), head=Unembed(cap=10.0), embed_scale=3.0,
    ),
    "post-norms alone": LM(VOCAB, 32, Stack(2, Block(Attention(4), GLU(), norm=NoNorm(), post=RMSNorm()))),
    "experts": LM(VOCAB, 32, Stack(2, Block(Attention(4), MoE(experts=4, active=2, expert=GLU(hidden=16))))),
    "parallel, head bias": LM(
        VOCAB, 32, Stack(2, ParallelBlock(Attention(4, bias=True), MLP("gelu"))), head=Unembed(bias=True),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> cloche.Tokenizer:
    return cloche.train_bpe(["a"], vocab=VOCAB)


def _glass(name: str, tokenizer: cloche.Tokenizer) -> cloche.Glass:
    net = MODELS[name].build(seed=3)
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            if parameter.ndim == 1:  # gains and biases that differ from what they start at
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(key))))
    return cloche.Glass(net, tokenizer)


@pytest.mark.parametrize("by", ["component", "head"])
@pytest.mark.parametrize("name", MODELS)
def test_contributions_sum_to_the_logit_difference(name: str, by: str, tokenizer: cloche.Tokenizer) -> None:
    glass = _glass(name, tokenizer)
    finding = direct_attribution(glass, Add(), by=by, pairs=3, level=2)  # type: ignore[arg-type]
    assert finding.figures["error"] < 1e-5
    pair = Add().items(tokenizer, 1, 2)[0]
    first = next(i for i, (a, b) in enumerate(zip(pair.answer_ids, pair.corrupted_answer_ids, strict=True)) if a != b)
    logits = glass.net.run([[*pair.ids, *pair.answer_ids[:first]]]).logits[0, -1].double()
    if "capped" in name:
        logits = 10 * (logits / 10).atanh()
    wanted = float(logits[pair.answer_ids[first]] - logits[pair.corrupted_answer_ids[first]])
    assert finding.arrays["direct"][0].sum() == pytest.approx(wanted, abs=1e-3)


def test_the_ablation_is_what_one_edited_run_gives(tokenizer: cloche.Tokenizer) -> None:
    glass = _glass("llama", tokenizer)
    finding = direct_attribution(glass, PromptPair("ab", "ac", "x", "y"), by="head")
    net = glass.net
    ids = [tokenizer.encode("ab")]
    x, y = tokenizer.encode("x")[0], tokenizer.encode("y")[0]

    def difference(*edits: object) -> float:
        logits = net.run(ids, edits=edits).logits[0, -1]
        return float(logits[x] - logits[y])

    at = finding.data["components"].index("z[1].head(2)")
    wanted = difference() - difference(net.sites.z[1].head(2).zero())
    assert finding.arrays["ablated"][0, at] == pytest.approx(wanted, abs=1e-5)


def test_erasure_is_large_in_both_directions_and_nothing_together(tokenizer: cloche.Tokenizer) -> None:
    """The MLP of layer 1 takes back what that of layer 0 writes: direct effects of +x and -x, and nothing is lost without
    both. Without the first alone nothing is lost either, for the second then writes nothing."""
    block = Block(Attention(4), MLP("identity", hidden=32), norm=NoNorm())
    net = LM(VOCAB, 64, Stack(2, block), norm=NoNorm()).build(seed=0)
    x, y, b = (tokenizer.encode(letter)[0] for letter in "xyb")
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            if "layers" in key:
                parameter.zero_()
        net.embed.weight[:, 32:] = 0  # where layer 0 writes
        net.unembed.weight[:, 32:] = 0
        net.unembed.weight[x, 33], net.unembed.weight[y, 33] = 1.0, -1.0
        reads = net.embed.weight[b] / net.embed.weight[b].norm() ** 2
        first, second = net.layers[0].map, net.layers[1].map
        first.inner.weight[0], first.outer.weight[33, 0] = reads, 5.0
        second.inner.weight[0, 33], second.outer.weight[33, 0] = 1.0, -1.0
    glass, task = cloche.Glass(net, tokenizer), PromptPair("ab", "ac", "x", "y")
    finding = direct_attribution(glass, task)
    direct = dict(zip(finding.data["components"], finding.data["direct"], strict=True))
    lost = dict(zip(finding.data["components"], finding.data["ablated"], strict=True))
    assert direct["mlp_out[0]"] == pytest.approx(10, rel=1e-4) and direct["mlp_out[1]"] == pytest.approx(-10, rel=1e-4)
    assert lost["mlp_out[0]"] == pytest.approx(0, abs=1e-4) and lost["mlp_out[1]"] == pytest.approx(-10, rel=1e-4)


def test_what_cannot_be_attributed_is_one_sentence(tokenizer: cloche.Tokenizer) -> None:
    glass = _glass("llama", tokenizer)
    with pytest.raises(ClocheError, match="is not a division of the model; it is component or head"):
        direct_attribution(glass, Add(), by="layer")  # type: ignore[arg-type]


def test_a_model_in_half_precision_is_attributed_too(tokenizer: cloche.Tokenizer) -> None:
    glass = _glass("llama", tokenizer)
    whole = direct_attribution(glass, Add(), pairs=2).data["direct"]
    half = cloche.Glass(glass.net.to(torch.bfloat16), tokenizer)
    assert direct_attribution(half, Add(), pairs=2).data["direct"] == pytest.approx(whole, abs=0.1)


def test_agreement_of_effects_that_are_all_zero_is_a_number() -> None:
    zero, one = torch.zeros(3), torch.ones(3)
    assert sign_errors(zero, one) == 0 and pearson(zero, one) == 0
    assert sign_errors(torch.tensor([1.0, -1.0, 0.01]), torch.tensor([1.0, 1.0, -1.0])) == 0.5
