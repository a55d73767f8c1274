"""`cloche doctor RECIPE`: planted faults are named with their layer and setting, and healthy recipes get nothing."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from cloche.diagnose import examine
from cloche.diagnose.doctor.signal import flat_share, measure
from cloche.drawing import Finding
from cloche.model import GLU, LM, MLP, Attention, Block, Map, NoNorm, RoPE, ScoredAttention, Shifted, Stack, Unembed
from cloche.train import Recipe

VOCAB = 300


def recipe_of(*blocks: Block, depth: int = 4, head: Unembed | None = None, tied: bool = False) -> Recipe:
    body = Stack(depth, blocks if len(blocks) > 1 else blocks[0])
    spec = LM(VOCAB, 32, body, head=head or Unembed(), tied=tied)
    return Recipe(model=spec).with_set({"tokenizer.vocab": VOCAB, "run.length": 32, "run.threads": 1})


def block(map: Map | None = None, mix: Attention | ScoredAttention | None = None, **others: object) -> Block:
    return Block(mix or Attention(2, position=RoPE()), map or GLU("silu"), **others)  # type: ignore[arg-type]


def found(recipe: Recipe) -> list[tuple[str, str]]:
    listed = examine(recipe, machine=False).data["problems"]
    return [(each["where"], each["key"]) for each in listed]


@dataclass(frozen=True)
class Louder(Map):
    """A map whose gain is wrong by a factor."""

    factor: float

    def build(self, width: int, std: float):
        return MLP("gelu", hidden=64).build(width, self.factor * std)


HEALTHY = {
    "first": Recipe().with_set(
        {"model.width": 64, "model.body.block.mix.heads": 2, "tokenizer.vocab": VOCAB, "run.length": 64}
    ),
    "gelu": recipe_of(block(MLP("gelu"))),
    "relu2": recipe_of(block(MLP("relu2"))),
    "relu": recipe_of(block(MLP("relu"))),
    "tanh": recipe_of(block(MLP("tanh"))),
    "sigmoid gate": recipe_of(block(GLU("sigmoid"))),
    "tied": recipe_of(block(), tied=True),
    "capped": recipe_of(block(mix=ScoredAttention(Attention(2), cap=50.0)), head=Unembed(cap=30.0)),
    "deep": recipe_of(block(), depth=16),
    "as GPT-2": recipe_of(block()).with_set({"initialisation": "Normal(std=0.02)"}),
    "xavier": recipe_of(block()).with_set({"initialisation": "Xavier"}),
    "orthogonal": recipe_of(block()).with_set({"initialisation": "Orthogonal"}),
    "mup": recipe_of(block()).with_set({"initialisation": "MuP(base_width=16)"}),
    "no norm, shallow": recipe_of(block(norm=NoNorm()), depth=2),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_recipe_gets_no_finding(name: str) -> None:
    assert found(HEALTHY[name]) == []


BROKEN = {
    "deviation too large": (
        recipe_of(block()).with_set({"initialisation": "Normal(std=0.5)"}),
        "layer 0",
        'initialisation = "FanIn"',
    ),
    "no norm and deep": (
        recipe_of(block(norm=NoNorm()), depth=24).with_set({"initialisation": "Normal(std=0.4, scaled=False)"}),
        "layer 4",
        'model.body.block.norm = "RMSNorm"',
    ),
    "sigmoid": (recipe_of(block(MLP("sigmoid"))), "layer 0", "model.body.block.map.activation"),
    "dead units in one layer": (
        recipe_of(block(), block(MLP(Shifted("relu", 4.5)))),
        "layer 1",
        "model.body.block[1].map.activation",
    ),
    "wrong gain in one layer": (
        recipe_of(block(MLP("gelu")), block(MLP("gelu")), block(Louder(60.0))),
        "layer 2",
        "model.body.block[2].map",
    ),
    "saturated softmax": (
        recipe_of(block(mix=ScoredAttention(Attention(2), scale=10.0))),
        "layer 0",
        "model.body.block.mix.scale",
    ),
    "scores capped too low": (
        recipe_of(block(mix=ScoredAttention(Attention(2), cap=0.2))),
        "layer 0",
        "model.body.block.mix.cap",
    ),
    "logits capped too low": (recipe_of(block(), head=Unembed(cap=1.0)), "head", "model.head.cap"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_planted_fault_is_named_with_its_layer_and_setting(name: str) -> None:
    recipe, where, key = BROKEN[name]
    assert (where, key) in found(recipe)


def test_the_signal_of_the_design_is_measured() -> None:
    """Every branch has the deviation that it is built for, the activation's second moment is that of its gain, and in a
    linear network the gradient is the same at all layers but for the growth of the stream."""
    net = recipe_of(block(MLP("relu", hidden=256)), depth=4).model.build(0)
    signal = measure(net, torch.randint(VOCAB, (16, 33), generator=torch.Generator().manual_seed(0)))
    for layer in signal.layers:
        assert layer.mlp == pytest.approx(8**-0.5, rel=0.1)
        assert layer.units is not None
        assert layer.units.moment == pytest.approx(0.5, rel=0.1)
        assert layer.units.constant == pytest.approx(
            1 / torch.pi, rel=0.3
        )  # of ReLU: 1/(2 pi) of 1/2, and what tokens share
        assert layer.units.flat == pytest.approx(0.5, abs=0.05)
    assert signal.backward == pytest.approx(signal.growth, rel=0.35)


def test_the_flat_share_of_a_sigmoid_is_that_of_its_tails() -> None:
    x = torch.linspace(-10, 10, 20_001, dtype=torch.float64)
    edge = float(torch.acosh(torch.tensor(2 / 0.01 - 1)))  # where p (1 - p) is 1% of a quarter: cosh(x) = 199
    assert flat_share("sigmoid", x) == pytest.approx(1 - edge / 10, abs=1e-3)
    assert flat_share("identity", x) == 0


def test_the_finding_is_saved_and_drawn(tmp_path) -> None:
    finding = examine(recipe_of(block(), head=Unembed(cap=1.0)), machine=False)
    assert finding.null is not None
    assert finding.figures["problems"] == 1 == finding.null["problems"]  # of the same parts
    assert Finding.of_record(finding.record()).text() == finding.text()
    assert "Raise the cap" in finding.text()
