"""A sweep equals its edits run one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from combinations import NUMBERS, VOCAB, close, combination, lively, random_ids
from torch import Tensor

from cloche.errors import ClocheError
from cloche.model import GLU, LM, Attention, Block, Full, Network, Result, RoPE, Stack
from cloche.model.sites.vocabulary import AXES

T, PAD = 9, [2, 0, 1]
IDS = random_ids(3, T)
WHERES: list[Any] = [None, 0, 4, -1, "last", slice(3, 6), slice(-2, None), slice(1, None, 2), [0, 5], [3, 3, 4]]


def everything(logits: Tensor) -> Tensor:
    return logits


def one_by_one(net: Network, ids: Tensor, edits: list[Any], pad: Any = None) -> Tensor:
    return torch.stack([net.run(ids, edits=edit, pad=pad).logits for edit in edits])


def agree(net: Network, edits: list[Any], ids: Tensor = IDS, pad: Any = None, **options: Any) -> None:
    swept = net.sweep(ids, edits, everything, pad=pad, **options)
    truth = one_by_one(net, ids, edits, pad)
    real = torch.ones(ids.shape, dtype=torch.bool)
    for row, skip in enumerate(pad or []):
        real[row, :skip] = False  # what padding predicts nobody reads
    close(swept[:, real], truth[:, real])


def every_kind(net: Network, source: Result) -> list[Any]:
    """One edit of each kind at each site, at the forms of position in turn."""
    generator = torch.Generator().manual_seed(3)
    edits: list[Any] = []
    for number, site in enumerate(site for site in net.sites if site.name != "head_out"):
        shape = source[site].shape
        v = torch.randn(shape[-1], generator=generator)
        kinds = [site.add(v), site.scale(0.7), site.apply(lambda x: x.flip(1).tanh())]
        if not site.name.endswith("_scale"):  # nothing is divided by zero
            kinds += [site.zero()]
        if site.name != "scores":
            kinds += [
                site.replace(source) if site.name.endswith("_scale") else site.project_out(v),
                site.replace(source),
                site.scale(torch.rand(shape, generator=generator)),
            ]
        for offset, edit in enumerate(kinds):
            where = WHERES[(number + 3 * offset) % len(WHERES)]
            edits.append(edit if where is None else edit.at(where))
        if "head" in AXES[site.name]:
            edits += [
                site.head(0).replace(source).at(5),
                site.head(1).scale(-1.0),
                site.head(1).add(v.mean()).at("last"),
            ]
    return edits


@pytest.fixture(scope="module")
def net() -> Network:
    attention = Attention(heads=4, kv_heads=2, head_size=4, position=RoPE(theta=30))
    return lively(LM(VOCAB, 10, Stack(3, Block(mix=attention, map=GLU(hidden=9)))))


@pytest.mark.parametrize("pad", [None, PAD])
@pytest.mark.parametrize("rows", [1, 12, 10_000])
def test_every_edit_at_every_site(net: Network, pad: Any, rows: int) -> None:
    source = net.run(random_ids(3, T, seed=5), save=list(net.sites), pad=pad)
    edits = every_kind(net, source)
    assert len(edits) > 150
    agree(net, edits, pad=pad, rows=rows)


@pytest.mark.parametrize("number", NUMBERS[::2])
def test_layers_by_heads_and_layers_by_positions(number: int) -> None:
    net = lively(combination(number))
    pad = PAD if number % 4 else None
    source = net.run(random_ids(3, T, seed=5), save=[net.sites.z.all, net.sites.resid_pre.all], pad=pad)
    heads = [z.head(h).replace(source) for z in net.sites.z for h in range(2)]
    places = [pre.replace(source).at(p) for pre in net.sites.resid_pre for p in range(-T + max(PAD), 0)]
    agree(net, heads, pad=pad)
    agree(net, places, pad=pad)
    agree(net, [*places, *heads][::-1], pad=pad, rows=21)


@pytest.mark.parametrize("pad", [None, PAD])
def test_edits_made_together(net: Network, pad: Any) -> None:
    s, v = net.sites, torch.linspace(-1, 1, 10)
    edits = [
        (s.resid_post[0].add(v).at(4), s.z[2].head(1).zero().at("last")),
        [s.resid_mid[1].scale(2.0), s.resid_mid[1].add(v)],
        (s.resid_mid[1].add(v), s.resid_mid[1].scale(2.0)),
        s.logits.scale(0.5).at(5),
        (s.embed.add(v).at("last"), s.final_norm.scale(2.0), s.pattern[1].head(3).scale(0.5).at(4)),
        (s.k[2].add(torch.ones(4)).at(5), s.mlp_act[1].apply(torch.relu).at([5, 4])),
    ]
    agree(net, edits, pad=pad)


def test_one_source_row_for_many_and_one_edit_alone(net: Network) -> None:
    source = net.run(random_ids(1, T, seed=5), save="v[1]")
    agree(net, [net.sites.v[1].head(h).replace(source).at(slice(2, None)) for h in range(2)])
    edit = net.sites.v[1].head(0).replace(source)
    close(net.sweep(IDS, edit, everything)[0], net.run(IDS, edits=edit).logits)


def test_a_model_that_sees_ahead_shares_no_positions() -> None:
    attention = Attention(heads=2, mask=Full(), position=RoPE())
    net = lively(LM(VOCAB, 12, Stack(2, Block(mix=attention, map=GLU(hidden=9)))))
    agree(net, [pre.add(torch.ones(12)).at(p) for pre in net.sites.resid_pre for p in range(T)])


def test_what_lies_below_and_before_is_computed_once(net: Network) -> None:
    """Counted in tokens times layers: 3 clean layers of 9 tokens, then per edit only what it can change."""
    tokens: list[int] = []
    handles = [
        block.register_forward_pre_hook(lambda m, a: tokens.append(a[0].shape[0] * a[0].shape[1]))
        for block in net.layers
    ]
    try:
        net.sweep(IDS[:1], [net.sites.z[2].head(h).zero() for h in range(4)], everything)
        assert sum(tokens) == 3 * T + 4 * T
        tokens.clear()
        net.sweep(IDS[:1], [net.sites.resid_pre[1].zero().at("last")], everything)
        assert sum(tokens) == 3 * T + 2 * 1
        tokens.clear()
        net.sweep(IDS[:1], [net.sites.resid_pre[2].zero().at(p) for p in (0, 1, 4, 5, 8)], everything)
        assert sum(tokens) == 3 * T + 2 * T + 2 * (T - 3) + 1 * (T - 6)  # more positions than starts, 0, 3 and 6
    finally:
        for handle in handles:
            handle.remove()


def test_read_gets_the_logits_of_one_edit(net: Network) -> None:
    answers = torch.tensor([3, 1, 4])
    edits = [net.sites.z[layer].head(h).zero() for layer in range(3) for h in range(4)]
    swept = net.sweep(IDS, edits, lambda logits: logits[torch.arange(3), -1, answers])
    assert swept.shape == (12, 3)
    for edit, row in zip(edits, swept, strict=True):
        close(row, net.run(IDS, edits=edit).logits[torch.arange(3), -1, answers])
    numbers = net.sweep(IDS, edits, lambda logits: logits[:, -1, 0].mean().item())
    assert numbers.shape == (12,) and numbers.std() > 0
    assert not net.sweep(IDS, edits, everything).requires_grad


V = torch.ones(10)
MISUSE: dict[str, tuple[Any, str]] = {
    "no edits": (lambda n: n.sweep(IDS, [], everything), "has no edits"),
    "no edit in it": (lambda n: n.sweep(IDS, [()], everything), r"number 0 is \(\)"),
    "no edit": (lambda n: n.sweep(IDS, [n.sites.z[0].zero(), "z[0]"], everything), "number 1 is 'z"),
    "no edit inside": (lambda n: n.sweep(IDS, [("z[0]",)], everything), "edits= takes values such as"),
    "never fires": (lambda n: n.sweep(IDS, [n.sites.z[0].zero().at(9)], everything), "never fire in row 0"),
    "never fires in a row": (
        lambda n: n.sweep(IDS, [n.sites.z[0].zero().at(7)], everything, pad=PAD),
        "never fire in row 0",
    ),
    "new": (lambda n: n.sweep(IDS, [n.sites.z[0].zero().at("new")], everything), "only when generating"),
    "of a wrong shape": (lambda n: n.sweep(IDS, [n.sites.z[0].add(V)], everything), "does not fit"),
    "of another padding": (
        lambda n: n.sweep(IDS, [n.sites.z[0].replace(n.run(IDS, save="z[0]"))], everything, pad=PAD),
        "the same padding",
    ),
    "no function": (lambda n: n.sweep(IDS, [n.sites.z[0].zero()], 3), "read= takes a function"),
    "reads nothing": (lambda n: n.sweep(IDS, [n.sites.z[0].zero()], lambda x: None), "returned NoneType"),
    "reads of unlike shapes": (
        lambda n: n.sweep(IDS, [n.sites.logits.zero(), n.sites.z[0].zero()], lambda x: x[: 1 + bool(x.any())]),
        r"one shape for every edit; it returned \[1, 9, 17\] and \[2, 9, 17\]",
    ),
    "no rows": (lambda n: n.sweep(IDS, [n.sites.z[0].zero()], everything, rows=0), "rows=0 must be"),
    "rows a fraction": (lambda n: n.sweep(IDS, [n.sites.z[0].zero()], everything, rows=1.5), "rows=1.5 must be"),
    "ids outside": (lambda n: n.sweep([[VOCAB]], [n.sites.z[0].zero()], everything), "outside the vocabulary"),
    "pad of another length": (
        lambda n: n.sweep(IDS, [n.sites.z[0].zero()], everything, pad=[1]),
        "one whole number per row",
    ),
}


@pytest.mark.parametrize("case", MISUSE)
def test_misuse_is_one_sentence(net: Network, case: str) -> None:
    act, sentence = MISUSE[case]
    with pytest.raises(ClocheError, match=sentence) as caught:
        act(net)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
