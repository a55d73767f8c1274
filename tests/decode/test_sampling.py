"""Sampling against probabilities worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from cloche.decode import Sampling, generate
from cloche.errors import ClocheError
from cloche.model import LM, MLP, Attention, Block, Network, Stack

P = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
LOGITS = P.log()[None] + 3.0  # a shift changes nothing


def probabilities(logits: torch.Tensor = LOGITS, **settings) -> torch.Tensor:
    return Sampling(**settings).log_probabilities(logits).exp()[0]


def kept(*which: int, power: float = 1.0) -> torch.Tensor:
    """P to a power, on these tokens alone, made to sum to one."""
    out = torch.zeros(5)
    out[list(which)] = P[list(which)] ** power
    return out / out.sum()


EXACT = {
    "as they are": ({"temperature": 1.0}, kept(0, 1, 2, 3, 4)),
    "cold": ({"temperature": 0.5}, kept(0, 1, 2, 3, 4, power=2)),
    "hot": ({"temperature": 2.0}, kept(0, 1, 2, 3, 4, power=0.5)),
    "two likeliest": ({"temperature": 1.0, "top_k": 2}, kept(0, 1)),
    "one": ({"temperature": 1.0, "top_k": 1}, kept(0)),
    "more than there are": ({"temperature": 1.0, "top_k": 9}, kept(0, 1, 2, 3, 4)),
    "half the mass": ({"temperature": 1.0, "top_p": 0.5}, kept(0, 1)),
    "just past two": ({"temperature": 1.0, "top_p": 0.71}, kept(0, 1, 2)),
    "hardly any mass": ({"temperature": 1.0, "top_p": 1e-6}, kept(0)),
    "all the mass": ({"temperature": 1.0, "top_p": 1.0}, kept(0, 1, 2, 3, 4)),
    # After top_k = 3 the masses are 0.47, 0.35, 0.18: two reach 0.8. Of the whole, three would be needed.
    "top_p of what top_k left": ({"temperature": 1.0, "top_k": 3, "top_p": 0.8}, kept(0, 1)),
    "top_p after the temperature": ({"temperature": 0.5, "top_p": 0.57}, kept(0, 1, power=2)),
    "a third of the likeliest": ({"temperature": 1.0, "min_p": 0.33}, kept(0, 1, 2)),
    "as much as the likeliest": ({"temperature": 1.0, "min_p": 1.0}, kept(0)),
    "min_p of nothing": ({"temperature": 1.0, "min_p": 0.0}, kept(0, 1, 2, 3, 4)),
    "min_p after the temperature": ({"temperature": 0.5, "min_p": 0.33}, kept(0, 1, power=2)),
    "almost greedy": ({"temperature": 1e-30}, kept(0)),
}


@pytest.mark.parametrize("case", EXACT)
def test_exact_probabilities(case: str) -> None:
    settings, truth = EXACT[case]
    torch.testing.assert_close(probabilities(**settings), truth, rtol=1e-5, atol=1e-6)
    order = torch.tensor([3, 0, 4, 2, 1])  # nor does the order of the vocabulary matter
    torch.testing.assert_close(probabilities(LOGITS[:, order], **settings), truth[order], rtol=1e-5, atol=1e-6)


def test_ties_do_not_widen_top_k() -> None:
    assert (probabilities(torch.zeros(1, 6), temperature=1.0, top_k=2) > 0).sum() == 2


def test_half_precision_logits_are_sampled_in_full() -> None:
    assert Sampling(temperature=1.0).log_probabilities(LOGITS.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("case", ["as they are", "cold", "two likeliest", "top_p of what top_k left"])
def test_draws_follow_the_probabilities(case: str) -> None:
    settings, truth = EXACT[case]
    count = 40_000
    draws = Sampling(**settings).pick(LOGITS.expand(count, -1), torch.Generator().manual_seed(1))
    shares = draws.bincount(minlength=5) / count
    assert (shares[truth == 0] == 0).all()
    assert ((shares - truth).abs() < 4.5 * (truth * (1 - truth) / count).sqrt() + 1e-9).all(), shares


def planted() -> Network:
    """A network whose next-token probabilities are P whatever came before: its branches and stream say nothing."""
    spec = LM(5, 4, Stack(1, Block(mix=Attention(heads=2), map=MLP(hidden=4))))
    net = spec.build(seed=0)
    with torch.no_grad():
        net.embed.weight.fill_(1.0)
        net.layers[0].mix.out.weight.zero_()
        net.layers[0].map.outer.weight.zero_()
        net.unembed.weight.copy_(P.log()[:, None] / 4)
    return net


def test_generation_follows_the_probabilities() -> None:
    net = planted()
    torch.testing.assert_close(net.run([[0, 3]]).logits.softmax(-1)[0, 1], P, rtol=1e-4, atol=1e-5)
    made = generate(net, [[0]] * 500, new=20, temperature=1.0, top_p=0.75, seed=4).ids[:, 1:].flatten()
    shares, truth = made.bincount(minlength=5) / len(made), kept(0, 1, 2)
    assert ((shares - truth).abs() < 4.5 * (truth * (1 - truth) / len(made)).sqrt() + 1e-9).all(), shares
    assert generate(net, [[2]], new=5).new == [[0] * 5]


def test_one_seed_one_text() -> None:
    net, ids = planted(), [[0, 1]] * 3
    texts = {seed: generate(net, ids, new=30, temperature=1.0, seed=seed).new for seed in (0, 1, 2)}
    assert texts[1] == generate(net, ids, new=30, temperature=1.0, seed=1).new
    assert len({str(text) for text in texts.values()}) == 3
    assert texts[0] == generate(net, ids, new=30, temperature=1.0).new  # the default seed is zero
    assert len({str(row) for row in texts[1]}) == 3  # rows are drawn one by one
    longer = generate(net, ids, new=40, temperature=1.0, seed=2).new
    assert [row[:30] for row in longer] == texts[2]


def test_greedy_needs_no_seed() -> None:
    assert Sampling().pick(LOGITS, torch.Generator()).tolist() == [0]
    assert Sampling(temperature=0.0, top_k=3).pick(LOGITS, torch.Generator()).tolist() == [0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite(value: float, temperature: float) -> None:
    with pytest.raises(ClocheError, match="logits are not finite"):
        Sampling(temperature).pick(torch.tensor([[0.0, 1.0], [value, value]]), torch.Generator())
    banned = torch.tensor([[-math.inf, 0.0]])  # some tokens forbidden is no harm
    assert Sampling(temperature).pick(banned, torch.Generator()).tolist() == [1]


def test_excluded_ids_are_never_drawn_and_the_rest_keeps_its_proportions():
    logits = torch.tensor([[5.0, 4.0, 1.0, 0.0]])
    how = Sampling(temperature=1.0, exclude=(3, 0, 3))
    assert how.exclude == (0, 3)
    expected = torch.tensor([[4.0, 1.0]]).softmax(-1)
    torch.testing.assert_close(how.log_probabilities(logits).exp()[:, 1:3], expected)
    assert torch.equal(how.log_probabilities(logits).isneginf(), torch.tensor([[True, False, False, True]]))
    assert Sampling(exclude=(0,)).pick(logits, torch.Generator()).tolist() == [1]
    torch.testing.assert_close(how.excluded_mass(logits), logits.softmax(-1)[:, [0, 3]].sum(-1))
    torch.testing.assert_close(
        Sampling(temperature=1.0, top_k=1, exclude=(0,)).log_probabilities(logits)[0, 1].exp(), torch.tensor(1.0)
    )


@pytest.mark.parametrize(
    ("exclude", "says"),
    [((-1,), "from 0 on"), (("a",), "a list of token ids"), (7, "a list of token ids"), ((1.5,), "token ids")],
)
def test_what_cannot_be_excluded_is_said(exclude, says: str):
    with pytest.raises(ClocheError, match=says):
        Sampling(exclude=exclude)


def test_a_whole_sampling_is_a_setting_like_its_fields():
    """Also one of a third party's, which draws in its own way."""
    from cloche.decode import generate
    from cloche.model import GLU, LM, Attention, Block, Stack

    class Least(Sampling):
        def pick(self, logits, generator):
            return logits.argmin(-1)

    net = LM(64, 32, Stack(1, Block(Attention(4), GLU("silu", 64)))).build(0)
    whole = Sampling(temperature=0.8, top_k=5)
    ids = [[1, 2, 3]]
    assert (
        generate(net, ids, new=4, sampling=whole, seed=3).new
        == generate(net, ids, new=4, temperature=0.8, top_k=5, seed=3).new
    )
    assert generate(net, ids, new=1, sampling=Least()).new[0][0] == int(net(torch.tensor(ids))[0, -1].argmin())
    assert Sampling.from_toml(whole.to_toml()) == whole
