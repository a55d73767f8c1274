"""Mean, noise and clamp; edits in each other's way; patterns that no longer sum to one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from combinations import NUMBERS, VOCAB, close, combination, lively, random_ids
from torch import Tensor

from cloche.errors import ClocheError
from cloche.model import GLU, LM, Attention, Block, Network, RoPE, ScoredAttention, Stack
from cloche.model.sites.vocabulary import AXES

T, WIDTH, PAD = 7, 10, [2, 0, 3]
IDS = random_ids(3, T)
EACH_TOKEN = [
    name for name in AXES if "key" not in AXES[name] and name not in ("router", "head_out")
]  # router: test_moe.py


@pytest.fixture(scope="module")
def net() -> Network:
    attention = Attention(heads=4, kv_heads=2, head_size=4, position=RoPE(theta=30))
    return lively(LM(VOCAB, WIDTH, Stack(2, Block(mix=attention, map=GLU(hidden=9)))))


def place(net: Network, name: str) -> Any:
    entry = getattr(net.sites, name)
    return entry if name in ("embed", "final_scale", "final_norm", "logits") else entry[1]


def by_function(net: Network, site: Any, function: Any, **options: Any) -> Tensor:
    return net.run(IDS, edits=[site.apply(function)], **options).logits


def real(pad: list[int]) -> Tensor:
    return torch.arange(T)[None] >= torch.tensor(pad)[:, None]


@pytest.mark.parametrize("pad", [None, PAD])
@pytest.mark.parametrize("name", EACH_TOKEN)
def test_the_sites_own_mean(net: Network, name: str, pad: Any) -> None:
    site, seen = place(net, name), real(pad or [0, 0, 0])

    def mean(x: Tensor) -> Tensor:
        return x[seen].mean(0).expand_as(x)

    result = net.run(IDS, save=[site], edits=[site.mean()], pad=pad)
    truth = by_function(net, site, mean, pad=pad)
    close(result.logits[seen], truth[seen])
    assert result[site][seen].std(0).max() < 1e-6
    at = net.run(IDS, save=[site], edits=[site.mean().at(-2)], pad=pad)[site]
    plain = net.run(IDS, save=[site], pad=pad)[site]
    changed = (at - plain).flatten(2).abs().amax(-1)[seen] > 0
    assert changed.sum() == 3
    if "head" in AXES[name]:
        one = net.run(IDS, save=[site], edits=[site.head(1).mean()], pad=pad)[site]
        close(one[:, :, 1], result[site][:, :, 1])
        assert torch.equal(one[:, :, 0], plain[:, :, 0])


def test_the_mean_of_other_prompts(net: Network) -> None:
    """Of any number and length, their padding left out; and a mean given as a tensor."""
    other, pad = random_ids(5, 12, seed=4), [0, 3, 1, 11, 0]
    source = net.run(other, save=["mlp_out[0]", "z[1]"], pad=pad)
    seen = torch.arange(12)[None] >= torch.tensor(pad)[:, None]
    truth = source["mlp_out[0]"][seen].mean(0)
    s = net.sites
    close(net.run(IDS, edits=s.mlp_out[0].mean(source)).logits, net.run(IDS, edits=s.mlp_out[0].replace(truth)).logits)
    close(net.run(IDS, edits=s.mlp_out[0].mean(truth)).logits, net.run(IDS, edits=s.mlp_out[0].replace(truth)).logits)
    head = source["z[1]"][seen].mean(0)[2]
    close(
        net.run(IDS, edits=s.z[1].head(2).mean(source)).logits, net.run(IDS, edits=s.z[1].head(2).replace(head)).logits
    )


@pytest.mark.parametrize("name", EACH_TOKEN)
def test_noise_has_its_deviation_and_its_seed(net: Network, name: str) -> None:
    site, ids = place(net, name), random_ids(8, 40)
    plain = net.run(ids, save=[site])[site]
    noisy = net.run(ids, save=[site], edits=site.noise(0.5, seed=1))[site]
    draws = noisy - plain
    assert draws.std().item() == pytest.approx(0.5, rel=0.1) and abs(draws.mean().item()) < 0.05
    assert torch.equal(noisy, net.run(ids, save=[site], edits=site.noise(0.5, seed=1))[site])
    assert not torch.allclose(noisy, net.run(ids, save=[site], edits=site.noise(0.5, seed=2))[site])
    assert not torch.allclose(draws[0], draws[1], atol=0.1) and not torch.allclose(draws[:, 0], draws[:, 1], atol=0.1)
    close(net.run(ids, save=[site], edits=site.noise(1.5, seed=1))[site] - plain, 3 * draws, 1e-4)


def test_noise_depends_on_the_place_alone(net: Network) -> None:
    site = net.sites.resid_mid[0]
    plain = net.run(IDS, save=[site])[site]
    draws = net.run(IDS, save=[site], edits=site.noise(1.0))[site] - plain
    shorter = net.run(IDS[:, :4], save=[site], edits=site.noise(1.0))[site] - net.run(IDS[:, :4], save=[site])[site]
    close(shorter, draws[:, :4])
    padded = net.run(IDS, save=[site], edits=site.noise(1.0), pad=PAD)[site] - net.run(IDS, save=[site], pad=PAD)[site]
    for row, skip in enumerate(PAD):
        close(padded[row, skip:], draws[row, : T - skip])
    other = net.sites.resid_post[0]
    elsewhere = net.run(IDS, save=[other], edits=other.noise(1.0))[other] - net.run(IDS, save=[other])[other]
    assert not torch.allclose(elsewhere, draws, atol=0.1)


@pytest.mark.parametrize("name", EACH_TOKEN)
@pytest.mark.parametrize("level", ["number", "per position"])
def test_clamp_sets_one_direction_and_leaves_the_rest(net: Network, name: str, level: str) -> None:
    site = place(net, name)
    plain = net.run(IDS, save=[site])[site]
    d = torch.randn(plain.shape[-1], generator=torch.Generator().manual_seed(1))
    value: Any = 2.5 if level == "number" else torch.linspace(-1, 1.5, T).view(T, *[1] * (plain.dim() - 3))
    result = net.run(IDS, save=[site], edits=site.clamp(3 * d, value))
    along = (result[site] @ d) / d.norm()
    close(along, torch.as_tensor(value).expand_as(along))
    beside = plain - (plain @ d)[..., None] * d / d.dot(d)
    close(result[site] - along[..., None] * d / d.norm(), beside)
    together = [site.project_out(d), site.add(d / d.norm() * torch.as_tensor(value)[..., None])]
    close(result.logits, net.run(IDS, edits=together).logits)


@pytest.mark.parametrize("pad", [None, PAD])
@pytest.mark.parametrize("number", NUMBERS[0:7:3])
def test_they_sweep_as_they_run(number: int, pad: Any) -> None:
    net = lively(combination(number))
    s, d = net.sites, torch.randn(net.spec.width, generator=torch.Generator().manual_seed(5))
    source = net.run(random_ids(2, 5, seed=8), save=[s.z.all, s.resid_post.all])
    edits = [
        *(site.mean() for site in (s.resid_post[1], s.z[0].head(1), s.logits)),
        *(s.z[layer].head(0).mean(source).at("last") for layer in range(3)),
        *(s.resid_mid[1].noise(0.5, seed).at(slice(2, None)) for seed in range(3)),
        *(s.resid_post[layer].clamp(d, 2.0).at(3) for layer in range(3)),
        (s.embed.noise(0.1), s.mlp_out[2].clamp(d, -1.0), s.attn_in[1].mean().at(-1)),
    ]
    swept = net.sweep(IDS, edits, lambda logits: logits[:, -1], pad=pad)
    close(swept, torch.stack([net.run(IDS, edits=edit, pad=pad).logits[:, -1] for edit in edits]))


def test_a_pattern_that_does_not_sum_to_one_is_said(net: Network) -> None:
    s = net.sites
    result = net.run(IDS, edits=[s.pattern[1].head(2).scale(0.5), s.pattern[0].apply(lambda p: p.flip(1))])
    assert result.notes == [
        "pattern[1] was edited and its rows no longer sum to what a softmax gives (off by up to 0.5)."
    ]
    assert net.run(IDS, save="pattern[1]").notes == net.run(IDS, edits=s.scores[1].scale(0.5)).notes == []
    uniform = torch.ones(T, T).tril() / torch.arange(1, T + 1)[:, None]
    assert net.run(IDS, edits=s.pattern[1].replace(uniform)).notes == []
    assert len(net.run(IDS, edits=s.pattern[1].zero().at(0)).notes) == 1


V = torch.ones(WIDTH)
CONFLICTS: dict[str, tuple[Any, str]] = {
    "two replaces": (
        lambda s: [s.embed.replace(V), s.embed.replace(2 * V)],
        "replace embed has no effect, because replace",
    ),
    "zero after add": (lambda s: [s.z[0].add(V[:4]), s.z[0].zero()], r"add z\[0\] has no effect, because zero z\[0\]"),
    "whole after head": (lambda s: [s.z[0].head(1).scale(2.0), s.z[0].zero()], "has no effect"),
    "the same head": (lambda s: [s.z[0].head(1).zero(), s.z[0].head(1).zero()], "has no effect"),
    "everywhere after one place": (
        lambda s: [s.embed.add(V).at(2), s.embed.replace(V)],
        "add embed at 2 has no effect",
    ),
    "the same place, named twice": (lambda s: [s.embed.zero().at(-1), s.embed.replace(V).at("last")], "has no effect"),
    "mean after noise": (lambda s: [s.embed.noise(1.0), s.embed.mean(V)], "noise embed has no effect"),
    "not next to each other": (
        lambda s: [s.embed.zero(), s.z[0].zero(), s.embed.replace(V)],
        "zero embed has no effect",
    ),
}


@pytest.mark.parametrize("case", CONFLICTS)
def test_edits_in_each_others_way(net: Network, case: str) -> None:
    make, sentence = CONFLICTS[case]
    for act in (
        lambda: net.run(IDS, edits=make(net.sites)),
        lambda: net.sweep(IDS, [tuple(make(net.sites))], lambda logits: logits),
    ):
        with pytest.raises(ClocheError, match=sentence):
            act()


def test_edits_that_leave_something_of_each_other(net: Network) -> None:
    s = net.sites
    for edits in (
        [s.embed.replace(V), s.embed.add(V)],
        [s.z[0].zero(), s.z[0].head(1).replace(V[:4])],
        [s.z[0].head(0).zero(), s.z[0].head(1).zero()],
        [s.z[0].zero(), s.z[1].zero()],
        [s.embed.zero().at([1, 2]), s.embed.replace(V).at(2)],
        [s.embed.add(V).at(2), s.embed.mean()],
    ):
        net.run(IDS, edits=edits)


MISUSE: dict[str, tuple[Any, str]] = {
    "mean of a pattern": (lambda s: s.pattern[0].mean(), r"pattern\[0\] has a value for each pair"),
    "noise on scores": (lambda s: s.scores[0].head(1).noise(1.0), "has a value for each pair"),
    "clamp of a pattern": (lambda s: s.pattern[0].clamp(V, 1.0), "has a value for each pair"),
    "noise of nothing": (lambda s: s.embed.noise(0.0), "takes a positive number"),
    "noise of a tensor": (lambda s: s.embed.noise(V), "takes a positive number"),
    "a seed of a half": (lambda s: s.embed.noise(1.0, 0.5), "a whole seed"),
    "mean of a wrong width": (lambda s: s.embed.mean(torch.ones(3)), "does not fit"),
    "mean of a list": (lambda s: s.embed.mean([1.0]), "got list"),
    "clamp of a zero direction": (lambda s: s.embed.clamp(0 * V, 1.0), "other than zero"),
    "clamp of a wrong width": (lambda s: s.embed.clamp(torch.ones(3), 1.0), r"direction of shape \[3\]"),
    "clamp of too many values": (lambda s: s.embed.clamp(V, torch.ones(5)), r"value of shape \[5\]"),
    "clamp to nothing": (lambda s: s.embed.clamp(V, None), "got None"),
    "clamp along a number": (lambda s: s.embed.clamp(2.0, 1.0), r"got 2\.0"),
    "mean of all layers": (lambda s: s.z.mean(), r"say which before .mean: z\[0\]"),
}


@pytest.mark.parametrize("case", MISUSE)
def test_misuse_is_one_sentence(net: Network, case: str) -> None:
    make, sentence = MISUSE[case]
    with pytest.raises(ClocheError, match=sentence) as caught:
        net.run(IDS, edits=[make(net.sites)])
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_a_mean_of_what_was_not_saved(net: Network) -> None:
    with pytest.raises(ClocheError, match="embed was not saved"):
        net.run(IDS, edits=net.sites.embed.mean(net.run(IDS, save="z[0]")))


@pytest.mark.parametrize("change", [{"cap": 1.5}, {"sinks": True}, {}])
def test_scores_are_fp32_under_autocast(change: dict[str, Any]) -> None:
    """Scores spelled out are the fp32 product of the bf16 queries and keys: a bf16 product would be off by 2^-9 of a score."""
    net = lively(
        LM(VOCAB, 12, Stack(1, Block(ScoredAttention(Attention(heads=2, position=RoPE()), **change), GLU(hidden=9))))
    )
    with torch.no_grad():
        net.layers[0].mix.qkv.weight.mul_(6)
    with torch.autocast("cpu", torch.bfloat16):
        result = net.run(random_ids(2, 9), save=["q[0]", "k[0]", "v[0]", "scores[0]", "pattern[0]", "z[0]"])
    q, k, v = (result[f"{name}[0]"].double().transpose(1, 2) for name in "qkv")
    assert result["q[0]"].dtype == torch.bfloat16 and result["scores[0]"].dtype == torch.float32
    scores = q @ k.mT * 6**-0.5
    if "cap" in change:
        scores = 1.5 * torch.tanh(scores / 1.5)
    seen = torch.ones(9, 9, dtype=torch.bool).tril().expand_as(scores)
    assert scores[seen].abs().max() > 1
    close(result["scores[0]"][seen], scores[seen].float(), 1e-6)
    close(result["z[0]"].float(), (result["pattern[0]"].double() @ v).transpose(1, 2).to(torch.bfloat16).float(), 1e-2)
