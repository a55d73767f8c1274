"""No number passes that cannot mean anything: in a part, in an edit, or among the weights of a checkpoint."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cloche.errors import ClocheError
from cloche.model import (
    GLU,
    LM,
    MLP,
    AllHeads,
    Attention,
    Block,
    Causal,
    ClampedGLU,
    DynamicScaling,
    LayerNorm,
    Learned,
    LinearScaling,
    Llama3Scaling,
    LongRoPE,
    MoE,
    Network,
    Part,
    RectifiedNorm,
    RMSNorm,
    RoPE,
    ScoredAttention,
    Shifted,
    Stack,
    Unembed,
    Window,
    YaRN,
    load_network,
    save_network,
)

NAN, INF = float("nan"), float("inf")
HOSTILE = (0, -1, 1.5, NAN, INF, -INF, 1e308, 1e-320, 10**12, 10**30, 10**5000, True, "3", [], None)
IDS = torch.arange(8)[None]


def attention(**fields: Any) -> Attention:
    return Attention(**{"heads": 4, "kv_heads": 2, "position": RoPE()} | fields)


def tree(mix: Any = None, map: Any = None, norm: Any = None, post: Any = None, **top: Any) -> LM:
    block = Block(mix or attention(), map or GLU(hidden=5), norm or RMSNorm(), post)
    return LM(16, 32, Stack(1, block), **top)


def turned(scaling: Any) -> LM:
    return tree(attention(position=RoPE(scaling=scaling)))


TREES = [
    tree(attention(head_size=8, position=RoPE(share=0.5)), embed_scale=2.0, head=Unembed(cap=5.0)),
    tree(norm=LayerNorm(), map=MLP(hidden=8), position=Learned(64)),
    tree(norm=RectifiedNorm(RMSNorm(), 0.1), map=GLU(Shifted("relu", 0.1), hidden=5)),
    tree(ScoredAttention(attention(mask=Causal() & Window(4), qk_norm=AllHeads()), scale=0.3, cap=5.0)),
    tree(map=MoE(4, 2, ClampedGLU(hidden=6))),
    turned(LinearScaling(2.0)),
    turned(DynamicScaling(2.0, 4)),
    turned(Llama3Scaling(length=4)),
    turned(YaRN(4.0, 4, 1.1)),
    turned(LongRoPE((1.0,) * 4, (2.0,) * 4, 4)),
]


def numbers(part: Any) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Each field of a tree that holds a number, with a function that puts another value there."""
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if isinstance(value, Part):
            for name, make in numbers(value):
                yield name, lambda x, f=field, m=make: dataclasses.replace(part, **{f.name: m(x)})
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield (
                f"{type(part).__name__}.{field.name}",
                lambda x, f=field: dataclasses.replace(part, **{f.name: x}),
            )


def test_a_number_in_a_part_computes_or_is_one_sentence() -> None:
    tried: set[str] = set()
    said: list[str] = []
    for whole in TREES:
        for name, make in numbers(whole):
            if name in tried:
                continue
            tried.add(name)
            for value in HOSTILE:
                try:
                    logits = make(value).build(0)(IDS)
                except ClocheError as error:
                    said.append(str(error))
                else:
                    assert bool(logits.isfinite().all()), (name, value)
                    assert value is None or (type(value) in (int, float) and abs(value) < 10**40), (name, value)
    assert all("\n" not in sentence and len(sentence) < 400 for sentence in said) and len(said) > 400
    assert len(tried) == 39


@pytest.mark.parametrize("value", [0, -1, NAN, INF])
def test_eps_theta_and_shared_heads_are_named(value: float) -> None:
    for make, name in ((lambda: RMSNorm(value), "RMSNorm"), (lambda: RoPE(value), "RoPE")):
        with pytest.raises(ClocheError, match=name + r"\(\w+=.* must be a finite number above zero"):
            make()
    with pytest.raises(ClocheError, match=r"Attention.*kv_heads"):
        Attention(heads=4, kv_heads=value)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def net() -> Network:
    return tree().build(0)


ONES = torch.ones(32)
EDITS: dict[str, Callable[[Any], Any]] = {
    "a vector of NaN": lambda s: s.add(ONES * NAN),
    "one infinite number": lambda s: s.replace(torch.cat([ONES[1:], torch.tensor([INF])])),
    "a strength of NaN": lambda s: s.scale(NAN),
    "a strength without end": lambda s: s.scale(INF),
    "a strength no tensor holds": lambda s: s.scale(10**400),
    "a flag": lambda s: s.scale(True),
    "a level of NaN": lambda s: s.clamp(ONES, NAN),
    "a direction of NaN": lambda s: s.project_out(ONES * NAN),
    "a mean of NaN": lambda s: s.mean(ONES * NAN),
    "noise without end": lambda s: s.noise(INF),
    "noise of NaN": lambda s: s.noise(NAN),
}


@pytest.mark.parametrize("case", EDITS)
def test_an_edit_brings_finite_numbers(case: str, net: Network) -> None:
    for look in (lambda e: net.run(IDS, edits=[e]), lambda e: net.sweep(IDS, [e], read=lambda logits: logits)):
        with pytest.raises(ClocheError, match=r"resid_post\[0\]") as caught:
            look(EDITS[case](net.sites.resid_post[0]))
        assert "\n" not in str(caught.value)


def test_scores_may_be_hidden_and_half_precision_has_its_reach(net: Network) -> None:
    saved = net.run(IDS, save="scores[0]")
    assert torch.equal(net.run(IDS, edits=[net.sites.scores[0].replace(saved)]).logits, saved.logits)
    half = tree().build(0).to(torch.float16)
    with pytest.raises(ClocheError, match=r"infinite in torch\.float16"):
        half.run(IDS, edits=[half.sites.resid_post[0].add(ONES * 1e5)])
    broken = net.run(IDS, edits=[net.sites.resid_post[0].apply(lambda x: x * NAN)])
    assert broken.notes == ["The logits hold NaN: see which edit or site first does."]


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_that_is_no_number_is_named_on_loading(
    value: float, dtype: torch.dtype, net: Network, tmp_path: Path
) -> None:
    save_network(net, tmp_path)
    path = tmp_path / "model.safetensors"
    whole = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    for name in whole:
        spoilt = {other: tensor.clone() for other, tensor in whole.items()}
        spoilt[name].view(-1)[-1] = value
        save_file(spoilt, path)
        with pytest.raises(ClocheError, match=rf"tensor {name} holds {'NaN' if math.isnan(value) else 'infinity'}"):
            load_network(tmp_path)
    huge = {name: tensor.clone() for name, tensor in whole.items()}
    next(iter(huge.values())).fill_(3e38)  # their sum is infinite, and none of them is
    save_file(huge, path)
    load_network(tmp_path)


def test_a_text_beyond_the_context_is_noted(tmp_path: Path) -> None:
    from cloche.decode import Session, generate

    net = tree().build(0)
    assert not net.run(IDS.repeat(1, 9)).notes  # nothing is declared
    net.context = 10
    save_network(net, tmp_path)
    net = load_network(tmp_path)
    note = r"more than the 10 that this model was trained on or declares"
    assert not net.run(IDS).notes and not generate(net, IDS, new=2).notes
    long = IDS.repeat(1, 2)[:, :11]
    assert [note in n for n in net.run(long).notes] == [True]
    assert not net.run(long.repeat(2, 1), pad=[1, 1]).notes
    assert [note in n for n in generate(net, IDS, new=3).notes] == [True]
    session = Session(net, IDS, None, 5)
    session.feed(IDS)
    assert not session.notes
    session.feed(IDS[:, :3])
    assert [note in n for n in session.notes] == [True]
    edit = net.sites.resid_post[0].zero()
    with pytest.warns(UserWarning, match=note):
        net.sweep(long, [edit], read=lambda logits: logits[:, -1])
    with pytest.warns(UserWarning, match=note):
        net.store([long], "resid_post[0]", tmp_path / "rows")
