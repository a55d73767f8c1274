"""attention_patterns: the rows of the saved patterns, in attention of every kind, and which heads are shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hand_built
import pytest
import torch

import cloche
import third_party
from cloche import GLU, LM, Attention, Block, RoPE, Stack, Window
from cloche.drawing import Heatmap
from cloche.errors import ClocheError
from cloche.interp import attention_patterns, head_scores, head_spectra
from cloche.interp.circuits.heads import scores_of
from cloche.model import Causal, Network, ScoredAttention, load_network

VOCAB = 48
KINDS = {
    "grouped, rotary": Attention(4, kv_heads=2, position=RoPE()),
    "a window": Attention(4, position=RoPE(), mask=Causal() & Window(5)),
    "sinks and a cap": ScoredAttention(Attention(4, kv_heads=1, position=RoPE()), cap=5.0, sinks=True),
}


def built(kind: str) -> Network:
    net = LM(VOCAB, 32, Stack(2, Block(KINDS[kind], GLU()))).build(seed=1)
    with torch.no_grad():
        for block in net.layers:
            block.mix.qkv.weight.mul_(3)
            if kind.startswith("sinks"):
                block.mix.sinks.copy_(torch.tensor([3.0, 1.0, -9.0, 7.0]))
    return net


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_the_saved_pattern_and_sum_to_one_with_the_sink(kind: str) -> None:
    net, ids = built(kind), torch.randint(VOCAB, (100,), generator=torch.Generator().manual_seed(0)).tolist()
    found = attention_patterns(cloche.Glass(net), ids, heads="1.3,0.0", last=30)
    pattern = net.run([ids], save="pattern.all")["pattern.all"][:, 0]  # [layer, head, query, key]
    expected = torch.stack([pattern[1, 3, -30:], pattern[0, 0, -30:]])
    assert found.arrays["patterns"] == pytest.approx(expected.numpy(), abs=1e-5)
    assert found.arrays["patterns"].sum(-1) + found.arrays["sink"] == pytest.approx(1, abs=1e-5)
    assert ("sink" in found.figures) == (found.arrays["sink"].max() > 0.1) == kind.startswith("sinks")
    own = pattern[[1, 0], [3, 0]]
    assert found.figures["previous"] == pytest.approx(own.diagonal(-1, -2, -1).mean().item(), abs=1e-5)
    assert found.figures["first"] == pytest.approx(own[:, 1:, 0].mean().item(), abs=1e-5)
    first = found.panels[0]
    assert isinstance(first, Heatmap) and first.columns[0] == "(earlier)" and len(first.rows) == 30
    assert all(sum(cell or 0 for cell in row) == pytest.approx(1, abs=1e-4) for row in first.values)


def test_uniform_attention_is_not_concentrated_and_a_single_token_is() -> None:
    net = hand_built.induction()
    found = attention_patterns(hand_built.glass(net), [3, 7, 1, 9, 4], heads=["0.0"])
    assert found.figures["concentration"] == pytest.approx(1, abs=0.01) and found.null is not None
    assert found.null["concentration"] == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        net.layers[0].mix.qkv.weight.zero_()
    flat = attention_patterns(hand_built.glass(net), [3, 7, 1, 9, 4], heads=["0.0"])
    assert flat.figures == pytest.approx(flat.null, abs=1e-6)
    assert flat.figures["previous"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 4)


def test_by_default_the_heads_with_the_highest_scores_are_shown() -> None:
    found = attention_patterns(hand_built.glass(hand_built.induction()), [3, 7, 1, 3])
    assert [1, 0] in found.data["heads"] and [0, 0] in found.data["heads"]
    titles = [panel.title for panel in found.panels]
    assert any("layer 1 head 0 (induction" in title for title in titles)
    assert any("layer 0 head 0 (previous" in title for title in titles)


@pytest.mark.parametrize("name", ["sortgpt", "stories260K"])
def test_patterns_of_models_trained_by_others(name: str, shared: Callable[[str], Path]) -> None:
    glass = cloche.load(shared(f"weights/{name}/hf"))
    ids = [0, 1, 2, 1, 0, 2, 0]
    found = attention_patterns(glass, ids, heads="0.0,2.2")
    pattern = glass.net.run([ids], save="pattern.all")["pattern.all"][:, 0]
    assert found.arrays["patterns"] == pytest.approx(torch.stack([pattern[0, 0], pattern[2, 2]]).numpy(), abs=1e-5)
    assert attention_patterns(glass, ids).figures["concentration"] > 0.02


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"heads": "2.0"}, "the layers of this model with heads are 0 to 1, not 2"),
        ({"heads": "1.1"}, "layer 1 has heads 0 to 0, not 1"),
        ({"heads": "first"}, "does not name a head; write LAYER.HEAD"),
        ({"heads": [0.1]}, "does not name a head; write LAYER.HEAD"),
        ({"last": 0}, "must be from 1 to 256"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(options: dict, said: str) -> None:
    with pytest.raises(ClocheError, match=said):
        attention_patterns(hand_built.glass(hand_built.induction()), [3, 1], **options)


@pytest.mark.slow
def test_heads_of_every_family_that_is_supported() -> None:
    random_configs = pytest.importorskip("random_configs", exc_type=ImportError)  # needs transformers
    family_table = pytest.importorskip("family_table", exc_type=ImportError)
    for number in range(len(random_configs.NAMES)):
        family, fields = random_configs.random_config(number)
        net = imported(family_table.built(family, fields, seed=number))
        glass, ids = cloche.Glass(net), [[1, 5, 2, 7, 3, 9, 1, 5, 2, 7, 3, 9]]
        pattern = net.run(ids, save="pattern.all")["pattern.all"][:, 0]  # [layer, head, query, key]
        found = attention_patterns(glass, ids[0], heads="0.1,1.0")
        assert found.arrays["patterns"] == pytest.approx(torch.stack([pattern[0, 1], pattern[1, 0]]).numpy(), abs=2e-5)
        scores = scores_of(net, torch.tensor(ids)).by_head
        previous = pattern.diagonal(-1, -2, -1).mean(-1)
        assert scores["previous"] == pytest.approx(previous.numpy(), abs=2e-5), family
        late = torch.arange(6, 12)
        seen = pattern[:, :, late, late - 5] > 0
        shares = pattern[:, :, late, late - 5].sum(-1) / seen.sum(-1).clamp(min=1)
        assert scores["induction"] == pytest.approx(shares.numpy(), abs=2e-5), family


def imported(model: Any) -> Network:
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_network(folder)


def test_half_precision_and_a_looped_body_have_heads_too() -> None:
    net = LM(VOCAB, 32, third_party.Loop(3, Block(Attention(4, position=RoPE()), GLU(hidden=24)))).build(seed=0)
    net = net.to(torch.bfloat16)
    found = attention_patterns(cloche.Glass(net), [3, 1, 4, 1, 5], heads="2.1")
    pattern = net.run([[3, 1, 4, 1, 5]], save="pattern[2]")["pattern[2]"][0, 1]
    assert found.arrays["patterns"][0] == pytest.approx(pattern.float().numpy(), abs=1e-2)
    assert head_scores(cloche.Glass(net), length=9, draws=2).arrays["previous"].shape == (3, 4)
    assert head_spectra(cloche.Glass(net)).arrays["copying"].shape == (1, 3, 4)
