"""Whatever generation can be asked for wrongly is one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cloche.decode import Session, generate, stream
from cloche.errors import ClocheError
from cloche.model import LM, MLP, Attention, Block, Full, Learned, Mask, Network, Stack, Window

IDS = [[1, 2, 3], [4, 5, 6]]
V = torch.ones(8)


def build(mask: Mask | None = None, **changes: Any) -> Network:
    attention = Attention(heads=2) if mask is None else Attention(heads=2, mask=mask)
    return LM(11, 8, Stack(2, Block(mix=attention, map=MLP(hidden=6))), **changes).build()


@pytest.fixture(scope="module")
def net() -> Network:
    return build()


def setting(**settings: Any) -> Callable[[Network], Any]:
    return lambda net: generate(net, IDS, **({"new": 4} | settings))


def edit(make: Callable[[Any, Network], Any]) -> Callable[[Network], Any]:
    return lambda net: generate(net, IDS, new=4, edits=[make(net.sites, net)])


def overfed(net: Network) -> None:
    session = Session(net, torch.tensor(IDS), None, new=1)
    session.feed(torch.tensor(IDS))
    session.feed(torch.tensor([[1, 2], [3, 4]]))


def fed_together(net: Network) -> None:
    Session(net, torch.tensor(IDS), None, new=3).feed(torch.ones(2, 5, dtype=torch.long))


CASES: dict[str, tuple[Callable[[Network], Any], str]] = {
    "no new token": (setting(new=0), "new=0 must be a whole number of at least one"),
    "fewer than none": (setting(new=-3), "new=-3"),
    "a fraction of tokens": (setting(new=2.5), "new=2.5"),
    "tokens as text": (setting(new="4"), "new='4'"),
    "negative temperature": (setting(temperature=-0.5), "temperature=-0.5 must be zero"),
    "no temperature": (setting(temperature=float("nan")), "temperature=nan"),
    "endless temperature": (setting(temperature=float("inf")), "temperature=inf"),
    "temperature as text": (setting(temperature="hot"), "temperature, top_p and min_p are numbers"),
    "temperature as truth": (setting(temperature=True), "temperature, top_p and min_p are numbers"),
    "top_k of nothing": (setting(temperature=1.0, top_k=0), "top_k=0 must keep at least one token"),
    "top_k of a fraction": (setting(temperature=1.0, top_k=2.5), "top_k and seed whole numbers"),
    "top_p of nothing": (setting(temperature=1.0, top_p=0.0), r"top_p=0.0 must lie in \(0, 1\]"),
    "top_p past one": (setting(temperature=1.0, top_p=1.2), "top_p=1.2"),
    "min_p past one": (setting(temperature=1.0, min_p=1.2), "min_p=1.2"),
    "min_p below nothing": (setting(temperature=1.0, min_p=-0.1), "min_p=-0.1"),
    "min_p as text": (setting(min_p="a"), "min_p are numbers"),
    "save of a typo": (setting(save="resid_pots[0]"), "did you mean 'resid_post'"),
    "the mean of what is to come": (
        lambda n: generate(n, IDS, new=2, edits=n.sites.resid_post[0].mean()),
        "those to come are unknown; give it a mean",
    ),
    "what was not saved": (lambda n: generate(n, IDS, new=2).saved["z[0]"], "was not saved"),
    "seed as text": (setting(temperature=1.0, seed="x"), "top_k and seed whole numbers"),
    "unknown setting": (
        setting(temprature=1.0),
        "no argument 'temprature'; did you mean temperature=?",
    ),
    "exclude past the vocabulary": (setting(exclude=[11]), "the token 11, outside the vocabulary 0 to 10"),
    "exclude of all": (setting(exclude=range(11)), "all 11 tokens of the vocabulary"),
    "stop as a number": (setting(stop=3), "stop= takes a list of token ids; got 3"),
    "stop as text": (setting(stop=["end"]), "stop= takes a list of token ids"),
    "stop of no token": (setting(stop=[None]), "stop= takes a list of token ids"),
    "stop outside the vocabulary": (setting(stop=[11]), "stop token 11 is outside the vocabulary 0 to 10"),
    "id outside the vocabulary": (lambda n: generate(n, [[11]], new=1), "11 is outside the vocabulary"),
    "ragged": (lambda n: generate(n, [[1], [1, 2]], new=1), "must form a rectangle"),
    "no prompt": (lambda n: generate(n, [[]], new=1), "at least one token"),
    "pad of another length": (setting(pad=[1]), "one whole number per row"),
    "pad of a whole row": (setting(pad=[0, 3]), "at least one real token"),
    "stream is checked at once": (lambda n: stream(n, IDS, new=0), "new=0"),
    "edit past every token": (edit(lambda s, n: s.z[0].zero().at(7)), r"positions 0 to 2 and 4 new ones"),
    "edit of an absent layer": (edit(lambda s, n: s.z[2].zero()), r"no z\[2\]"),
    "a value for each prompt token": (
        edit(lambda s, n: s.z[0].head(0).add(torch.ones(3, 4))),
        r"\.at\(slice\(0, n\)\)",
    ),
    "another run at all positions": (
        edit(lambda s, n: s.resid_post[0].replace(n.run(IDS, save="resid_post[0]"))),
        "generated tokens are not among them",
    ),
    "another run at the new ones": (
        edit(lambda s, n: s.resid_post[0].replace(n.run(IDS, save="resid_post[0]")).at("new")),
        "generated tokens are not among them",
    ),
    "too wide": (edit(lambda s, n: s.resid_post[0].add(torch.ones(9))), "does not fit"),
    "an edit that breaks the logits": (
        edit(lambda s, n: s.logits.apply(lambda x: x * float("nan"))),
        "logits are not finite",
    ),
    "more than a session holds": (overfed, "room for 4 tokens; 5 were fed"),
    "prompt and more in one": (fed_together, "Feed the 3 prompt tokens before the new ones"),
}


@pytest.mark.parametrize("case", CASES)
def test_misuse_is_one_sentence(net: Network, case: str) -> None:
    act, sentence = CASES[case]
    with pytest.raises(ClocheError, match=sentence) as caught:
        act(net)
    assert "\n" not in str(caught.value) and str(caught.value).endswith((".", "?"))


def test_more_tokens_than_learned_positions() -> None:
    net = build(position=Learned(6))
    assert generate(net, IDS, new=3).ids.shape == (2, 6)
    with pytest.raises(ClocheError, match=r"3 prompt tokens and 4 new ones .* the 6 positions .* at most 3 new ones"):
        generate(net, IDS, new=4)
    with pytest.raises(ClocheError, match="7 tokens are more than the 6 positions"):
        generate(net, [[1] * 7], new=1)


@pytest.mark.parametrize("mask", [Full(), Window(2)])
def test_models_that_look_ahead(mask: Mask) -> None:
    net = build(mask=mask)
    assert net.run(IDS).logits.shape == (2, 3, 11)
    with pytest.raises(ClocheError, match="cannot generate from left to right"):
        generate(net, IDS, new=1)
