"""Whatever a run can be asked for wrongly is one sentence, and it says where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from combinations import VOCAB, lively, random_ids

from cloche.errors import ClocheError
from cloche.model import (
    GLU,
    LM,
    Attention,
    Block,
    Learned,
    Network,
    RoPE,
    Site,
    Stack,
    site,
)

WIDTH, T = 8, 6
IDS = random_ids(2, T)
V = torch.ones(WIDTH)


def small(**changes: Any) -> Network:
    block = Block(mix=Attention(heads=4, kv_heads=2, position=RoPE()), map=GLU(hidden=5))
    return lively(LM(VOCAB, WIDTH, Stack(2, block), **changes))


@pytest.fixture(scope="module")
def net() -> Network:
    return small()


Act = Callable[[Network], Any]


def edit(make: Callable[[Any], Any], **options: Any) -> Act:
    return lambda net: net.run(IDS, edits=[make(net.sites)], **options)


def patch(make: Callable[[Any, Any], Any], ids: torch.Tensor = IDS, save: Any = "z[0]", **options: Any) -> Act:
    """Edits made from a Result of another run on `ids`."""
    return lambda net: net.run(IDS, edits=[make(net.sites, net.run(ids, save=save, **options))])


CASES: dict[str, tuple[Act, str]] = {
    # sites
    "typo in an attribute": (lambda n: n.sites.resid_pots[0], "no site 'resid_pots'; did you mean 'resid_post'"),
    "typo in text": (lambda n: n.run(IDS, save=["resid_pots[0]"]), "no site 'resid_pots'; did you mean 'resid_post'"),
    "typo in text of all": (lambda n: n.run(IDS, save=["resid_pots.all"]), "did you mean 'resid_post'"),
    "no such site at all": (lambda n: n.run(IDS, save=["router[0]"]), "'router"),
    "no site, in brackets": (lambda n: site("z[0"), r"'z\[0' is not a site; write one like"),
    "all heads of all layers": (lambda n: site("z.all.head(1)"), "is not a site"),
    "all of what is one": (lambda n: n.run(IDS, save=["logits.all"]), "only one logits"),
    "private name": (lambda n: n.run(IDS, save=["_table.all"]), "no site '_table'"),
    "layer out of range": (lambda n: n.sites.z[2], r"no z\[2\]: this model has z in layers 0 to 1"),
    "layer out of range, negative": (lambda n: n.sites.z[-3], r"no z\[-3\]"),
    "layer out of range in text": (lambda n: n.run(IDS, save="z[7]"), r"no z\[7\]: this model has z in layers 0 to 1"),
    "layers that do not exist": (lambda n: n.sites.z[2:5], r"no z\[2:5\]"),
    "layer as text": (lambda n: n.sites.z["0"], r"no z\['0'\]"),
    "no layer": (lambda n: n.run(IDS, save="z"), r"say which: z\[0\], or z\.all"),
    "layer of what has none": (lambda n: n.run(IDS, save="logits[0]"), "logits is not in a layer"),
    "head out of range": (lambda n: n.run(IDS, save="z[0].head(4)"), r"no z\[0\].head\(4\): z\[0\] has heads 0 to 3"),
    "key head out of range": (lambda n: n.run(IDS, save="k[0].head(2)"), "heads 0 to 1"),
    "negative head": (lambda n: n.run(IDS, save=[n.sites.z[0].head(-1)]), "heads 0 to 3"),
    "head of the headless": (lambda n: n.sites.resid_post[0].head(1), "has no heads; only q_pre, k_pre, q, k, v"),
    "head of the headless in text": (lambda n: site("mlp_act[0].head(1)"), "has no heads"),
    "head as text": (lambda n: n.sites.z[0].head("1"), "named by its number; got '1'"),
    "head as a fraction": (lambda n: n.sites.z[0].head(1.5), "named by its number"),
    "head before layer": (lambda n: n.sites.z.head(1), r"say which before .head: z\[0\]"),
    "edit of all layers": (lambda n: n.sites.z.all.zero(), r"say which before .zero: z\[0\]"),
    "save of no site": (lambda n: n.run(IDS, save=[3]), "got 3"),
    "site of another model": (lambda n: n.run(IDS, save=[Site("z", 9)]), r"no z\[9\]"),
    "asked for what was not saved": (lambda n: n.run(IDS, save="z[0]")["z[1]"], r"z\[1\] was not saved"),
    "asked for a layer not saved": (lambda n: n.run(IDS, save="z[0]")["z.all"], r"z\[1\] was not saved"),
    "logits of a run without": (lambda n: n.run(IDS, save="z[0]", logits=False).logits, "stopped before the logits"),
    # ids and padding
    "id too large in a plain call": (lambda n: n([[1, VOCAB]]), f"{VOCAB} is outside the vocabulary"),
    "ragged in a plain call": (lambda n: n([[1, 2], [3]]), "must form a rectangle"),
    "id too large": (lambda n: n.run([[1, VOCAB]]), f"{VOCAB} is outside the vocabulary 0 to {VOCAB - 1}"),
    "id below zero": (lambda n: n.run([[1, -1]]), "-1 is outside the vocabulary"),
    "id beyond 64 bits": (lambda n: n.run([[1, 2**70]]), "Token ids"),
    "fractions": (lambda n: n.run([[1.0, 2.0]]), "must be integers; got torch.float32"),
    "truths": (lambda n: n.run([[True, False]]), "must be integers"),
    "complex": (lambda n: n.run(torch.ones(1, 2, dtype=torch.complex64)), "must be integers"),
    "text": (lambda n: n.run("once upon"), "Token ids"),
    "no row": (lambda n: n.run([]), "at least one token"),
    "an empty row": (lambda n: n.run(torch.zeros(2, 0, dtype=torch.long)), "at least one token"),
    "ragged": (lambda n: n.run([[1, 2], [3]]), "must form a rectangle"),
    "three axes": (lambda n: n.run(IDS[None]), r"must be \[batch, position\]"),
    "pad of another length": (lambda n: n.run(IDS, pad=[1]), r"one whole number per row, \[2\]"),
    "pad as a mask": (lambda n: n.run(IDS, pad=IDS > 3), "one whole number per row"),
    "pad as one number": (lambda n: n.run(IDS, pad=1), "one whole number per row"),
    "pad of fractions": (lambda n: n.run(IDS, pad=[0.5, 1.0]), "one whole number per row"),
    "pad ragged": (lambda n: n.run(IDS, pad=[[1], [1, 2]]), "one whole number per row"),
    "pad below zero": (lambda n: n.run(IDS, pad=[0, -1]), "between 0 and 5"),
    "pad of a whole row": (lambda n: n.run(IDS, pad=[0, T]), "keeps at least one real token"),
    # edits and their values
    "edit of no site": (lambda n: n.run(IDS, edits=["z[0]"]), r"edits= takes values .* got 'z\[0\]'"),
    "edit of an absent layer": (edit(lambda s: Site("z", 5).zero()), r"no z\[5\]"),
    "edit of an absent head": (edit(lambda s: s.v[0].head(3).zero()), "heads 0 to 1"),
    "too wide": (edit(lambda s: s.resid_post[0].add(torch.ones(9))), r"\[9\], which does not fit .* = \[2, 6, 8\]"),
    "too long": (edit(lambda s: s.resid_post[0].add(torch.ones(7, 8))), "does not fit"),
    "too many axes": (edit(lambda s: s.resid_post[0].add(torch.ones(1, 2, 6, 8))), "does not fit"),
    "head's value with a head axis": (edit(lambda s: s.z[0].head(1).add(torch.ones(2, 6, 4, 2))), "does not fit"),
    "too many hidden units": (edit(lambda s: s.mlp_act[0].add(torch.ones(6))), r"does not fit .*= \[2, 6, 5\]"),
    "whole numbers": (edit(lambda s: s.resid_post[0].add(V.long())), "floating-point values; got torch.int64"),
    "an array": (edit(lambda s: s.resid_post[0].add(np.ones(8))), "takes a tensor or a number; got ndarray"),
    "nothing": (edit(lambda s: s.resid_post[0].add(None)), "got NoneType"),
    "a list": (edit(lambda s: s.resid_post[0].replace([1.0] * 8)), "got list"),
    "a zero direction": (edit(lambda s: s.resid_post[0].project_out(0 * V)), "zero vector"),
    "a number as a direction": (edit(lambda s: s.resid_post[0].project_out(2.0)), "does not fit"),
    "a direction of one": (edit(lambda s: s.resid_post[0].project_out(torch.ones(1))), "does not fit"),
    "no function": (lambda n: n.sites.z[0].apply(3.0), r"takes a function .* got 3\.0"),
    "function of another shape": (edit(lambda s: s.z[0].apply(lambda x: x[:, :1])), "must return a tensor of shape"),
    "function of nothing": (edit(lambda s: s.z[0].apply(lambda x: None)), "returned NoneType"),
    # positions
    "past the prompt": (edit(lambda s: s.z[0].zero().at(6)), "would never fire in row 0: it has positions 0 to 5"),
    "before the prompt": (edit(lambda s: s.z[0].zero().at(-7)), "would never fire"),
    "one of several past": (edit(lambda s: s.z[0].zero().at([0, 9])), "would never fire"),
    "empty slice": (edit(lambda s: s.z[0].zero().at(slice(3, 3))), "would never fire"),
    "slice past the prompt": (edit(lambda s: s.z[0].zero().at(slice(6, None))), "would never fire"),
    "past one row": (edit(lambda s: s.z[0].zero().at(4), pad=[0, 2]), "never fire in row 1: it has positions 0 to 3"),
    "before one row": (edit(lambda s: s.z[0].zero().at(-5), pad=[0, 2]), "never fire in row 1"),
    "new in a run": (edit(lambda s: s.z[0].zero().at("new")), '"new" ones only when generating'),
    "backwards": (lambda n: n.sites.z[0].zero().at(slice(None, None, -1)), "steps forward"),
    "no such word": (lambda n: n.sites.z[0].zero().at("first"), "'first' is none of these"),
    "no position": (lambda n: n.sites.z[0].zero().at([]), "is none of these"),
    "a fraction": (lambda n: n.sites.z[0].zero().at(1.0), "is none of these"),
    "a slice of fractions": (lambda n: n.sites.z[0].zero().at(slice(0.5, 2)), "is none of these"),
    "a truth": (lambda n: n.sites.z[0].zero().at(True), "is none of these"),
    "a list of truths": (lambda n: n.sites.z[0].zero().at([True, False]), "is none of these"),
    "a tensor": (lambda n: n.sites.z[0].zero().at(torch.tensor([1])), "is none of these"),
    # values from another run
    "source without the site": (patch(lambda s, r: s.z[1].replace(r)), r"z\[1\] was not saved"),
    "longer source": (patch(lambda s, r: s.z[0].replace(r), random_ids(2, 7)), "prompts of one length"),
    "source of one token": (patch(lambda s, r: s.z[0].replace(r), random_ids(2, 1)), "prompts of one length"),
    "source of other rows": (patch(lambda s, r: s.z[0].replace(r), random_ids(3, T)), "from a run where the site was"),
    "source padded otherwise": (patch(lambda s, r: s.z[0].replace(r), pad=[0, 2]), "the same padding"),
    # compile
    "no such compiler": (lambda n: n.run(IDS, compile="induktor"), "'induktor' is no backend of torch.compile"),
}


@pytest.mark.parametrize("case", CASES)
def test_misuse_is_one_sentence(net: Network, case: str) -> None:
    act, sentence = CASES[case]
    with pytest.raises(ClocheError, match=sentence) as caught:
        act(net)
    message = str(caught.value)
    assert "\n" not in message and message.endswith((".", "?")) and len(message) > 20


def test_a_refused_run_loses_nothing(net: Network) -> None:
    before = net.run(IDS).logits
    for act, _ in CASES.values():
        with pytest.raises(ClocheError):
            act(net)
    assert torch.equal(net.run(IDS).logits, before)


def test_more_tokens_than_learned_positions() -> None:
    net = small(position=Learned(5))
    assert net.run(IDS[:, :5]).logits.shape == (2, 5, VOCAB)
    with pytest.raises(ClocheError, match="6 tokens are more than the 5 positions this model has"):
        net.run(IDS)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32, np.uint8])
def test_ids_of_every_whole_type(net: Network, dtype: Any) -> None:
    """Packed tokens are uint16: they go in as they are read."""
    ids = IDS.numpy().astype(dtype)
    assert torch.equal(net.run(ids).logits, net.run(IDS).logits)
    assert torch.equal(net.run(IDS[0].tolist()).logits, net.run(IDS[:1]).logits)


def test_hasattr_answers_for_private_names(net: Network) -> None:
    assert not hasattr(net.sites, "_repr_html_") and not hasattr(net.sites.z, "__array__")
    assert "z" in dir(net.sites)


def test_a_plain_call_takes_a_list_as_others_do(net: Network) -> None:
    assert torch.equal(net([[1, 2, 3]]), net(torch.tensor([[1, 2, 3]]))) and net([1, 2]).shape == (1, 2, VOCAB)
