"""`loss_barrier`: permuted copies are put back exactly, checkpoints of one run are in one basin, bad input is one sentence."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from cloche import GLU, LM, MLP, Attention, Block, Glass, LayerNorm, Learned, RoPE, Run, Stack
from cloche.cli.app import app
from cloche.data import prepare
from cloche.errors import ClocheError, CorpusEmpty, InstrumentOption
from cloche.interp import Materials, fill_in, find_instrument, loss_barrier, match_weights
from cloche.interp.landscape.symmetries import permutable
from cloche.model import AllHeads, MoE, Network, RMSNorm, ScoredAttention, save_network
from cloche.text import Tokenizer

GROUPED = Attention(4, kv_heads=2, position=RoPE(), bias=True, qk_norm=AllHeads(RMSNorm()))
SPECS = {
    "gated": LM(24, 16, Stack(2, Block(Attention(4, position=RoPE()), GLU(hidden=12, bias=True)))),
    "grouped": LM(24, 16, Stack(2, Block(GROUPED, GLU(hidden=12), post=RMSNorm())), tied=True),
    "gpt2": LM(
        24, 16, Stack(2, Block(Attention(4, bias=True), MLP(bias=True, hidden=20), LayerNorm())), position=Learned(20)
    ),
    "experts": LM(24, 16, Stack(1, Block(ScoredAttention(Attention(4), sinks=True), MoE(3, 2, expert=GLU(hidden=8))))),
}
TEXT = torch.randint(24, (4, 12), generator=torch.Generator().manual_seed(0))


def shuffled(net: Network, seed: int = 1) -> Network:
    """A copy of a network with all units that may change places in a random order, which stays inside its groups."""
    draw, weights = (
        torch.Generator().manual_seed(seed),
        {name: weight.detach() for name, weight in net.named_parameters()},
    )
    for units in permutable(net):
        order = torch.randperm(units.size, generator=draw)
        if units.groups:
            width = units.size // units.groups
            groups = torch.randperm(units.groups, generator=draw)
            order = torch.cat([group * width + torch.randperm(width, generator=draw) for group in groups])
        units.reorder(weights, order)
    found = copy.deepcopy(net)
    with torch.no_grad():
        for name, weight in found.named_parameters():
            weight.copy_(weights[name])
    return found


def lively(spec: LM, seed: int = 0) -> Network:
    """At random weights, none of which is zero or one: gains, biases and sinks differ between units."""
    net, draw = spec.build(seed=seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in net.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=draw)
    return net


@pytest.mark.parametrize("name", SPECS)
def test_a_permuted_copy_computes_the_same_and_is_put_back_exactly(name: str) -> None:
    net = lively(SPECS[name])
    other = shuffled(net)
    with torch.no_grad():
        assert torch.allclose(net(TEXT), other(TEXT), atol=1e-5)
    assert not torch.equal(net.embed.weight, other.embed.weight)
    found = loss_barrier(Glass(net), [TEXT], Glass(other), [], steps=0, points=5)
    matched, orders = match_weights(net, other)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), matched.parameters(), strict=True))
    assert found.figures["barrier"] == 0 and found.figures["distance"] == 0
    assert found.figures["distance_unmatched"] > 0.5 and found.figures["moved_units"] > 0.5
    assert min(abs(found.arrays["line"] - found.arrays["unmatched"])[1:-1]) > 1e-3
    assert len(orders) == len(permutable(net)) == 5


def test_matching_changes_no_prediction_and_brings_weights_closer() -> None:
    one, two = lively(SPECS["grouped"]), lively(SPECS["grouped"], seed=5)
    matched, _ = match_weights(one, two)
    with torch.no_grad():
        assert torch.allclose(matched(TEXT), two(TEXT), atol=1e-5)
    found = loss_barrier(Glass(one), [TEXT], Glass(two), [], steps=0, points=3).figures
    assert found["distance"] < found["distance_unmatched"]


def test_the_identical_pair_has_no_barrier_and_a_random_direction_no_length() -> None:
    net = lively(SPECS["gated"])
    found = loss_barrier(Glass(net), [TEXT], Glass(net), [TEXT], steps=0)
    for name in ("barrier", "rise", "rise_random", "distance", "moved_units"):
        assert found.figures[name] == 0
    assert found.null == {"barrier": 0.0, "rise": 0.0, "distance": 0.0}


def test_a_trained_curve_goes_around_a_barrier() -> None:
    net = SPECS["gated"].build(seed=0)
    periodic = torch.arange(24).repeat(2)[None, :].repeat(4, 1)
    ends = [learned(net, periodic, seed) for seed in (1, 2)]
    found = loss_barrier(Glass(ends[0]), [periodic], Glass(ends[1]), [periodic], match=False, steps=40, points=7)
    assert "barrier_unmatched" not in found.figures
    assert found.figures["barrier_curve"] < 0.5 * found.figures["barrier"]
    assert set(found.arrays) == {"position", "line", "curve", "random"}


def test_a_permuted_copy_of_a_trained_model_lies_behind_a_barrier_until_it_is_matched() -> None:
    periodic = torch.arange(24).repeat(2)[None, :].repeat(4, 1)
    net = learned(SPECS["gated"].build(seed=0), periodic, seed=1)
    found = loss_barrier(Glass(net), [periodic], Glass(shuffled(net)), [], steps=0, points=5).figures
    assert found["barrier_unmatched"] > 0.5
    assert found["barrier"] == found["rise"] == found["distance"] == 0


def learned(net: Network, text: Tensor, seed: int) -> Network:
    """Trained on a text from a start of its own."""
    own = type(net)(net.spec, seed)
    adam = torch.optim.Adam(own.parameters(), lr=0.01)
    for _ in range(30):
        adam.zero_grad()
        torch.nn.functional.cross_entropy(own(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten()).backward()
        adam.step()
    return own


def test_bad_input_is_one_sentence() -> None:
    one, two = Glass(SPECS["gated"].build(seed=0)), Glass(SPECS["gpt2"].build(seed=0))
    with pytest.raises(InstrumentOption, match="another tree"):
        loss_barrier(one, [TEXT], two, [TEXT])
    with pytest.raises(InstrumentOption, match="at least 3"):
        loss_barrier(one, [TEXT], one, [TEXT], points=2)
    with pytest.raises(CorpusEmpty, match="training= has no text"):
        loss_barrier(one, [TEXT], one, [])
    own = Glass(LM(24, 16, Loop(2, Block(Attention(4), GLU(hidden=12)))).build(seed=0))
    with pytest.raises(InstrumentOption, match="Loop has no neurons or heads"):
        loss_barrier(own, [TEXT], own, [], steps=0)
    assert loss_barrier(own, [TEXT], own, [], steps=0, match=False).figures["barrier"] == 0


class Loop(Stack):
    """A body of one's own: nothing is known of it, so its units stay where they are."""


def test_both_are_found_by_look_and_read_their_texts_from_the_run(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and the dog ran off. " * 300)
    run = Run.create(tmp_path / "run", recipe="")
    prepare([text], run.path, vocab=280)
    spec = LM(Tokenizer.load(run.path).vocab, 16, Stack(1, Block(Attention(2), GLU(hidden=12))))
    for step in (0, 1):
        with run.new_checkpoint(step) as folder:
            save_network(spec.build(seed=step), folder)
            (folder / "tokenizer.json").write_bytes((run.path / "tokenizer.json").read_bytes())
    asked = ["look", str(run.path), "loss-barrier", f"other={run.path}/checkpoints/step-000000", "steps=2", "points=3"]
    said = CliRunner().invoke(app, [*asked, "windows=300", "training=300"])
    assert said.exit_code == 0 and "loss barrier to" in said.output, said.output
    said = CliRunner().invoke(
        app, ["look", str(run.path), "hessian-spectrum", "steps=4", "eigenvalues=1", "tokens=200"]
    )
    assert said.exit_code == 0 and "eigenvalues run from" in said.output.replace("\n", " "), said.output
    (run.path / "data" / "data.json").unlink()
    materials = Materials(Glass(spec.build(seed=0)), run)
    with pytest.raises(ClocheError, match="data"):
        fill_in(*find_instrument("loss-barrier"), {"windows": [TEXT], "other": None}, materials)
