"""Parts are values: frozen, equal by content, and the same tree after a trip through text."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from combinations import CHOICES, NUMBERS, combination
from torch import Tensor

from cloche.errors import ClocheError
from cloche.model import (
    GLU,
    LM,
    MLP,
    Attention,
    Block,
    Causal,
    Full,
    LayerNorm,
    Map,
    Norm,
    RectifiedNorm,
    RMSNorm,
    RoPE,
    Shifted,
    Stack,
    Window,
    ZeroCenteredRMSNorm,
    part_from_dict,
)
from cloche.model.declare import Linear, Module

TREE = LM(vocab=11, width=8, body=Stack(2, Block(mix=Attention(heads=2, position=RoPE()), map=GLU(hidden=12))))


@dataclasses.dataclass(frozen=True)
class Doubled(Map):
    """A user's own part: nothing registers it."""

    factor: float = 2.0
    label: str = "mine"

    def build(self, width: int, std: float) -> Module:
        return _Doubled(self.factor, width, std)


class _Doubled(Module):
    def __init__(self, factor: float, width: int, std: float) -> None:
        super().__init__()
        self.factor, self.linear = factor, Linear(width, width, std * width**-0.5)

    def forward(self, x: Tensor, context: object, layer: int) -> tuple[Tensor, dict[str, Tensor]]:
        return self.factor * self.linear(x), {}


def test_the_combinations_meet_every_choice() -> None:
    texts = [combination(n).to_toml() + repr(combination(n)) for n in NUMBERS]
    for options in CHOICES.values():
        for option in options:
            if isinstance(option, Causal | Window | RMSNorm | LayerNorm):
                assert any(repr(option) in text for text in texts), option
    assert len({combination(n).hash for n in NUMBERS}) == len(NUMBERS)


@pytest.mark.parametrize("number", NUMBERS)
def test_text_and_dict_round_trip(number: int) -> None:
    spec = combination(number)
    for back in (
        LM.from_toml(spec.to_toml()),
        part_from_dict(spec.to_dict()),
        part_from_dict(json.loads(json.dumps(spec.to_dict()))),
    ):
        assert back == spec and back.hash == spec.hash and hash(back) == hash(spec)
        assert back.to_toml() == spec.to_toml()


def test_equal_trees_have_equal_hashes() -> None:
    def tree(theta: float) -> LM:
        block = Block(mix=Attention(heads=2, position=RoPE(theta=theta)), map=MLP())
        return LM(vocab=11, width=8, body=Stack(2, block))

    assert tree(10_000) == tree(10_000.0)
    assert tree(10_000).hash == tree(10_000.0).hash
    assert tree(10_000).to_toml() == tree(10_000.0).to_toml()
    assert tree(10_000).hash != tree(10_001).hash
    assert len(TREE.hash) == 16 and int(TREE.hash, 16) >= 0


def test_every_field_changes_the_hash() -> None:
    attention = TREE.body.block.mix
    variants = [
        dataclasses.replace(TREE, tied=True),
        dataclasses.replace(TREE, vocab=12),
        dataclasses.replace(TREE, norm=LayerNorm()),
        *(
            dataclasses.replace(TREE, body=Stack(2, dataclasses.replace(TREE.body.block, mix=mix)))
            for mix in (
                dataclasses.replace(attention, kv_heads=1),
                dataclasses.replace(attention, mask=Full()),
                dataclasses.replace(attention, mask=Causal() & Window(3)),
                dataclasses.replace(attention, mask=Causal() | Window(3)),
                dataclasses.replace(attention, qk_norm=RMSNorm()),
                dataclasses.replace(attention, out_bias=True),
            )
        ),
    ]
    assert len({TREE.hash, *(v.hash for v in variants)}) == len(variants) + 1


def test_parts_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TREE.width = 16  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        TREE.body.block.mix.heads = 3  # type: ignore[attr-defined]


def test_resolved_writes_out_what_is_implied() -> None:
    implied = LM(11, 8, Stack(1, Block(mix=Attention(heads=2), map=MLP())))
    written = LM(
        11,
        8,
        Stack(1, Block(mix=Attention(heads=2, kv_heads=2, head_size=4, out_bias=False), map=MLP(hidden=32))),
    )
    assert implied != written and implied.resolved() == written.resolved() == written


def test_a_users_own_part_needs_no_registration() -> None:
    spec = LM(11, 8, Stack(2, Block(mix=Attention(heads=2), map=Doubled(factor=3))))
    assert LM.from_toml(spec.to_toml()) == spec and LM.from_toml(spec.to_toml()).hash == spec.hash
    net = spec.build(seed=0)
    ids = torch.arange(6)[None]
    result = net.run(ids, save=["mlp_out[1]", "mlp_in[1]"])
    inside = net.layers[1].map.linear
    torch.testing.assert_close(result["mlp_out[1]"], 3.0 * inside(result["mlp_in[1]"]))
    assert "mlp_act" not in dir(net.sites)
    with pytest.raises(ClocheError, match="no site 'mlp_act'"):
        net.run(ids, save=["mlp_act[0]"])


def test_two_parts_of_one_name_are_told_apart() -> None:
    clash = dataclasses.dataclass(frozen=True)(type("GLU", (Map,), {"__module__": "elsewhere", "__annotations__": {}}))
    try:
        with pytest.raises(ClocheError, match=r"cloche\.model\.maps\.mlp and elsewhere each define"):
            part_from_dict(TREE.to_dict())
    finally:
        clash.__name__ = "Renamed"
    assert part_from_dict(TREE.to_dict()) == TREE


def _changed(path: str, value: object) -> dict:
    data = TREE.to_dict()
    *way, last = path.split(".")
    inner = data
    for key in way:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return data


WRONG = {
    "unknown part": ("body.block.mix.part", "Atention", r"\[model.body.block.mix\].*'Atention'.*'Attention'"),
    "unknown position": ("body.block.mix.position.part", "Rope", r"\[model.body.block.mix.position\].*'RoPE'"),
    "no part": ("body.block.map.part", None, r"\[model.body.block.map\].*add a key `part`"),
    "part is a number": ("body.block.map.part", 3, r"\[model.body.block.map\].*add a key `part`"),
    "unknown field": ("body.block.mix.head", 2, r"\[model.body.block.mix\] Attention has no field 'head'.*'heads'"),
    "type: text": ("width", "wide", r"\[model.width\] must be of type int, not 'wide'"),
    "type: fraction": ("body.depth", 2.5, r"\[model.body.depth\] must be of type int, not 2.5"),
    "type: truth": ("body.depth", True, r"\[model.body.depth\] must be of type int, not True"),
    "type: number for truth": ("tied", 1, r"\[model.tied\] must be of type bool, not 1"),
    "type: text for float": ("norm.eps", "small", r"\[model.norm.eps\] must be of type float, not 'small'"),
    "missing field": ("body.block.mix.heads", None, r"\[model.body.block.mix\] Attention needs heads"),
    "two missing fields": ("body", {"part": "Stack"}, r"\[model.body\] Stack needs depth and block"),
    "wrong kind of part": ("body.block.mix", {"part": "MLP"}, r"\[model.body.block.mix\] must be a Mixer.*MLP"),
    "wrong kind in a tuple": (
        "body.block",
        [TREE.body.block.to_dict(), {"part": "MLP"}],
        r"\[model.body.block\[1\]\] must be a Block",
    ),
    "not a part": ("body.block.map", 4, r"\[model.body.block.map\] must be a Map, not 4"),
    "unknown activation": ("body.block.map.activation", "swoosh", r"Unknown activation 'swoosh'"),
    "zero": ("body.block.mix.heads", 0, r"heads=0.* above zero"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_text_names_the_place(case: str) -> None:
    path, value, sentence = WRONG[case]
    with pytest.raises(ClocheError, match=sentence) as caught:
        part_from_dict(_changed(path, value))
    assert str(caught.value).endswith((".", "?")) and "\n" not in str(caught.value)


CONSTRUCTED = {
    "heads not divided": (lambda: Attention(heads=4, kv_heads=3), "multiple of kv_heads"),
    "heads as a fraction": (lambda: Attention(heads=2.0), "heads.*of type int"),  # type: ignore[arg-type]
    "heads as text": (lambda: Attention(heads="2"), "heads.*of type int"),  # type: ignore[arg-type]
    "negative width": (lambda: dataclasses.replace(TREE, width=-1), "above zero"),
    "no block": (lambda: Stack(2, ()), "holds no block"),
    "window of zero": (lambda: Window(0), "above zero"),
    "theta not a number": (lambda: RoPE(theta=float("nan")), "above zero"),
    "width not divided": (lambda: dataclasses.replace(TREE, width=9).build(), "does not divide the width 9"),
    "odd head under RoPE": (
        lambda: LM(11, 9, Stack(1, Block(mix=Attention(heads=3, position=RoPE()), map=MLP()))).build(),
        "odd",
    ),
    "a list of blocks": (lambda: LM(11, 8, Stack(2, [TREE.body.block])).build(), r"model.body.block.*a tuple"),  # type: ignore[arg-type]
    "text for a part": (
        lambda: LM(11, 8, Stack(1, Block(mix="attention", map=MLP()))).build(),  # type: ignore[arg-type]
        r"\[model.body.block.mix\] must be a Mixer, not 'attention'",
    ),
    "a part in the wrong place": (
        lambda: LM(11, 8, Stack(1, Block(mix=MLP(), map=MLP()))).build(),  # type: ignore[arg-type]
        r"\[model.body.block.mix\] must be a Mixer, and MLP is not one",
    ),
    "text of another part": (lambda: LM.from_toml(RMSNorm().to_toml()), "must be a LM, and RMSNorm is not one"),
    "a shift that silences": (lambda: Shifted("relu", 40.0), "zero for every input there is at birth"),
    "a shift of an unknown": (lambda: GLU(Shifted("swoosh", 1.0)), "Unknown activation 'swoosh'"),
    "a shift as text": (lambda: Shifted("relu", "1"), r"\[Shifted.shift\] must be of type float"),  # type: ignore[arg-type]
    "a shift below zero": (lambda: RectifiedNorm(RMSNorm(), -0.1), r"shift=-0.1\) must be a number from 0"),
    "a shift without end": (lambda: RectifiedNorm(RMSNorm(), float("inf")), r"shift=inf\) must be a number from 0"),
    "no TOML": (lambda: LM.from_toml("part = "), "This is not TOML"),
}


@pytest.mark.parametrize("case", CONSTRUCTED)
def test_wrong_values_are_one_sentence(case: str) -> None:
    make, sentence = CONSTRUCTED[case]
    with pytest.raises(ClocheError, match=sentence):
        make()


@pytest.mark.parametrize("norm", [RMSNorm(eps=0.1), ZeroCenteredRMSNorm(eps=0.1), LayerNorm(eps=0.1), RectifiedNorm()])
def test_second_derivatives_of_norms_are_those_of_finite_differences(norm: Norm) -> None:
    module, draw = norm.build(5).double(), torch.Generator().manual_seed(0)
    for weight in module.parameters():
        torch.nn.init.normal_(weight, 0.5, 0.3, draw)
    x = torch.randn(2, 3, 5, dtype=torch.float64, generator=draw, requires_grad=True)
    assert torch.autograd.gradcheck(module, (x,)) and torch.autograd.gradgradcheck(module, (x,))
