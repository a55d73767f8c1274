"""Manifolds at sites: hand-built modular addition, whose only circle is known, one that grew, positions, and controls."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import clocks
import pytest
import torch

import cloche
from cloche.errors import (
    ArgumentRange,
    InstrumentOption,
    PromptInvalid,
    SignalsShape,
    SiteUnsuitable,
    TaskInvalid,
    TokenizerMissing,
)
from cloche.interp import (
    Contexts,
    Positions,
    Subject,
    TaskVariable,
    Variable,
    WordList,
    manifold,
    manifold_intervention,
    subspace_stability,
)
from cloche.model import GLU, LM, MLP, Attention, Block, Learned, NoNorm, Stack
from cloche.tasks import IndirectObject, ModularAdd

ANSWER, SUMMAND = clocks.Sums("answer"), clocks.Sums("a")


def test_the_hand_built_adder_is_exact() -> None:
    ids = clocks.sums()
    assert (clocks.adder()(ids)[:, -1].argmax(-1) == (ids[:, 0] + ids[:, 1]) % clocks.P).all()


def test_its_answers_lie_on_the_circle_that_was_written_and_its_summands_on_a_line() -> None:
    glass = clocks.glass(clocks.adder(), "step-000001")
    found = manifold(glass, "resid_post[0]", ANSWER)
    (circle,) = found.data["circles"]
    assert circle["period"] == pytest.approx(clocks.P / clocks.TURNS) and circle["closed"]
    assert circle["radius"] == pytest.approx(1, abs=0.01) and found.figures["angle_error"] < 1
    assert found.figures["circle"] > 0.99 and found.figures["p_value"] == 1 / 200
    assert found.figures["axes"] == 2 and found.figures["residual_axes"] == 0
    assert found.figures["explained"] > 0.99 and abs(found.null["explained"]) < 0.03
    assert found.figures["circles"] == 1 and "dimension_above_noise" not in found.figures  # separate clusters
    assert found.figures["separability"] > 1.1 and found.figures["purity"] == 1
    assert found.null["circle"] < 0.3 and found.null["purity"] < 0.1 and found.null["separability"] < 0.2
    assert found.panels[0].title == "Mean activation at resid_post[0] by value"
    line = manifold(glass, "embed", SUMMAND)
    assert line.figures["circle"] < 0.01 and line.figures["axes"] == 1 and line.figures["p_value"] > 0.05
    assert line.figures["arc_over_chord"] == pytest.approx(1) and line.figures["turning"] == pytest.approx(0, abs=0.1)
    assert math.isnan(line.figures["dimension"])  # a lattice


@pytest.mark.parametrize("by", ["circles", "turn", "means"])
def test_a_step_along_the_circle_adds_as_much_to_the_answer(by: str) -> None:
    glass = clocks.glass(clocks.adder())
    found = manifold_intervention(glass, "resid_post[0]", ANSWER, steps=(1, 7, -2), by=by)
    assert found.data["moved"] == [1, 1, 1] and found.data["stayed"] == [0, 0, 0] and max(found.data["null"]) < 0.2
    still = manifold_intervention(glass, "resid_post[0]", ANSWER, steps=(0,), by=by)
    assert still.figures["moved"] == still.figures["stayed"] == still.figures["accuracy"] == 1


def test_where_there_is_no_circle_nothing_is_moved() -> None:
    glass = clocks.glass(clocks.adder())
    found = manifold_intervention(glass, "embed", SUMMAND, steps=(1,))
    assert found.figures["circles"] == 0 and found.figures["moved"] == 0 and found.figures["stayed"] == 1
    along = manifold_intervention(glass, "embed", SUMMAND, steps=(3,), by="means")
    assert along.figures["moved"] == 1  # the line itself is what the model reads


def test_a_randomly_initialised_adder_has_no_circle_and_explains_nothing() -> None:
    glass = clocks.glass(clocks.spec(32, 4, 64).build(seed=3))
    found = manifold(glass, "resid_mid[0]", ANSWER)
    assert abs(found.figures["explained"]) < 0.1 and found.figures["axes"] == found.figures["circles"] == 0
    moved = manifold_intervention(glass, "resid_mid[0]", ANSWER, steps=(1,))
    assert moved.figures["moved"] < 0.15


@pytest.mark.slow
def test_of_forty_random_models_two_at_most_have_a_circle() -> None:
    """The means over a random model's sums do have an order, that of a convolution; they do not exceed noise."""
    models = [clocks.glass(clocks.spec(32, 4, 64).build(seed=seed)) for seed in range(40)]
    found = [manifold(glass, "resid_mid[0]", ANSWER, seed=seed).figures for seed, glass in enumerate(models)]
    assert sum(figures["circles"] > 0 for figures in found) <= 2 and sum(figures["axes"] > 0 for figures in found) <= 5


@pytest.mark.slow
def test_a_grown_adder_turns_by_one_step_as_its_fourier_frequencies_say() -> None:
    net = clocks.grown(seed=1)
    ids = clocks.sums()
    assert (net(ids)[:, -1].argmax(-1) == (ids[:, 0] + ids[:, 1]) % clocks.P).float().mean() > 0.99
    table = net.embed.weight[: clocks.P].detach().double()
    power = torch.fft.rfft(table - table.mean(0), dim=0).abs().square().sum(1)
    keys = set(power.topk(3).indices.tolist())  # the frequencies of Nanda et al. (2023)
    assert float(power[list(keys)].sum() / power.sum()) > 0.8
    glass = clocks.glass(net)
    for site, variable in (("embed", SUMMAND), ("resid_post[0]", ANSWER)):
        found = manifold(glass, site, variable)
        assert {round(clocks.P / circle["period"]) for circle in found.data["circles"][:3]} == keys
        moved = manifold_intervention(glass, site, variable)
        assert min(moved.data["moved"]) >= 0.95 and max(moved.data["null"]) < 0.1 and max(moved.data["stayed"]) < 0.05
    assert manifold_intervention(glass, "embed", SUMMAND, by="turn").figures["moved"] >= 0.95
    assert (
        manifold_intervention(glass, "resid_mid[0]", ANSWER).figures["moved"] < 0.8
    )  # a curve there, not yet the answer


def test_noise_is_excluded_from_the_dimension_of_a_dense_curve() -> None:
    @dataclass(frozen=True)
    class Angles(Variable):
        """64 tokens round a circle, in a stream with noise from a second token."""

        def contexts(self, subject: Subject, windows: Iterable[Any] | None, count: int, seed: int) -> Contexts:
            ids = torch.stack([torch.arange(640) % 64, torch.arange(640) % 331 + 64], 1)
            return Contexts([ids], [(0, i, 1) for i in range(640)], ids[:, 0].tolist(), list(range(640)))

    net = LM(395, 64, Stack(1, Block(Attention(1), MLP("relu", hidden=4), norm=NoNorm())), norm=NoNorm()).build(seed=0)
    turn = 2 * math.pi * torch.arange(64) / 64
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.embed.weight[:64, :2] = 2 * torch.stack([turn.cos(), turn.sin()], 1)
        net.embed.weight[64:] = 0.006 * torch.randn(331, 64, generator=torch.Generator().manual_seed(0))
        net.layers[0].mix.qkv.weight[128:] = torch.eye(64)  # the mean of both tokens is written to the second
        net.layers[0].mix.out.weight.copy_(torch.eye(64))
    found = manifold(clocks.glass(net), "resid_post[0]", Angles())
    assert found.figures["circle"] > 0.99 and found.figures["dimension"] > 3
    assert found.figures["dimension_above_noise"] == pytest.approx(1, abs=0.2)


# ---- positions


def text(seed: int = 0, texts: int = 40, length: int = 25) -> torch.Tensor:
    return torch.randint(64, (texts, length), generator=torch.Generator().manual_seed(seed))


def model(position: object = None, seed: int = 0) -> cloche.Glass:
    return cloche.Glass(LM(64, 32, Stack(2, Block(Attention(4), GLU())), position=position).build(seed=seed))


def test_learned_positions_are_a_curve_at_the_embedding_and_rotary_ones_are_not() -> None:
    learned = model(Learned(32))
    turn = 2 * math.pi * torch.arange(32) / 24
    with torch.no_grad():  # once round in 24 positions
        learned.net.position.weight.zero_()
        learned.net.position.weight[:, :2] = torch.stack([turn.cos(), turn.sin()], 1)
    found = manifold(learned, "embed", windows=[text()])
    assert found.data["values"] == list(range(1, 25)) and found.figures["period"] == pytest.approx(24)
    assert found.figures["explained"] > 0.9 and found.figures["circle"] > 0.99
    flat = manifold(model(), "embed", windows=[text()])
    assert flat.figures["explained"] == pytest.approx(0, abs=1e-6)  # nothing but the token is there
    kept = manifold(model(), "embed", Positions(without_tokens=False), windows=[text()])
    assert abs(kept.figures["explained"]) < 0.03 and kept.figures["axes"] == 0


# ---- tasks and words


def tokenizer() -> cloche.Tokenizer:
    return cloche.train_bpe(["a"], vocab=259)


@dataclass(frozen=True)
class Letters(Variable):
    """Tokens 0 to 5 by a letter each."""

    def contexts(self, subject: Subject, windows: Iterable[Any] | None, count: int, seed: int) -> Contexts:
        ids = torch.arange(6).repeat(20)[:, None]
        return Contexts([ids], [(0, i, 0) for i in range(120)], ["abcdef"[int(i)] for i in ids], list(range(120)))


def test_a_task_a_list_of_words_and_categories_are_read_where_they_are() -> None:
    glass = cloche.Glass(LM(259, 32, Stack(1, Block(Attention(4), GLU()))).build(seed=0), tokenizer())
    square = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1], [0.5, 0.5], [0.9, 0.5]])
    with torch.no_grad():
        glass.net.embed.weight[:6] = 0
        glass.net.embed.weight[:6, 3:5] = square
    found = manifold(glass, "embed", TaskVariable(ModularAdd(p=7), "number_1", place="number_1"), contexts=40)
    assert found.data["values"] == list(range(7)) and found.figures["purity"] == 1  # the token itself
    names = manifold(glass, "resid_pre[0]", TaskVariable(IndirectObject(), "answer"), contexts=120)
    assert not names.data["ordered"] and "circle" not in names.figures and names.figures["purity"] >= 0
    letters = manifold(glass, "embed", Letters())  # four corners of a square, its middle, and the middle of a side
    assert letters.data["values"] == list("abcdef") and letters.figures["vertices"] == pytest.approx(4 / 6)
    assert letters.figures["purity"] == 1 and letters.figures["explained"] > 0.95 and letters.figures["axes"] == 2
    numbers = ("1", "2", "3", "14", "15")
    words = manifold(glass, "embed", WordList(numbers, ("{} is near.", "It is {} now.", "{}")), view="ica")
    assert words.data["values"] == [0, 1, 2, 3, 4] and words.figures["purity"] == 1


@pytest.mark.parametrize("name", ["number_1", "answer"])
def test_the_answer_to_a_changed_variable_is_that_of_the_causal_graph(name: str) -> None:
    glass = cloche.Glass(LM(259, 32, Stack(1, Block(Attention(4), GLU()))).build(seed=0), tokenizer())
    found = TaskVariable(ModularAdd(p=23), name).contexts(glass, None, 30, seed=0)
    for point, (batch, row, position) in enumerate(found.places):
        ids = found.batches[batch][row].tolist()
        first, second = (int(n) for n in glass.tokenizer.decode(ids)[1:].partition(")")[0].split("+"))
        value = found.values[point]
        assert position == len(ids) - 1 and int(value) == (first if name == "number_1" else (first + second) % 23)
        told = glass.tokenizer.decode(found.answer(point, type(value)((int(value) + 1) % 23)))
        assert told == str((first + second + 1) % 23)


# ---- stability


def test_a_subspace_is_stable_where_it_is_planted_and_turns_with_the_model() -> None:
    glass = clocks.glass(clocks.adder())
    found = subspace_stability(glass, "resid_post[0]", ANSWER, components=2)
    assert found.figures["overlap"] > 0.999 and found.figures["largest_angle"] < 1 and found.figures["shape"] > 0.999
    assert found.figures["axes"] == 2 and found.null["shape"] < 0.7
    same = subspace_stability(glass, "resid_post[0]", ANSWER, other=glass, components=2)
    assert same.figures["overlap"] == pytest.approx(1) and same.figures["largest_angle"] < 1e-3
    turned = clocks.glass(clocks.spec(8, 1, 2 * clocks.P).build(seed=0), "turned")
    turned.net.load_state_dict(clocks.adder().state_dict())
    with torch.no_grad():  # the same circle in two other dimensions
        outer = turned.net.layers[0].map.outer.weight
        outer[5:7] = outer[3:5].clone()
        outer[3:5] = 0
    other = subspace_stability(glass, "resid_post[0]", ANSWER, other=turned, components=2)
    assert other.figures["overlap"] < 0.01 and other.figures["largest_angle"] > 89
    assert other.figures["shape"] > 0.999 and other.figures["halves"] > 0.999


# ---- bad input


def test_bad_input_is_one_sentence() -> None:
    adder = clocks.glass(clocks.adder())
    for call, error, match in (
        (lambda: manifold(adder, "pattern[0]", ANSWER), SiteUnsuitable, "one vector per token"),
        (lambda: manifold(adder, "resid_post.all", Positions()), PromptInvalid, "windows="),
        (lambda: manifold(adder, "resid_post[0]", Positions()), PromptInvalid, "windows="),
        (lambda: manifold(adder, "resid_post[0]", ANSWER, contexts=1), InstrumentOption, "more contexts="),
        (lambda: manifold(adder, "resid_post[0]", ANSWER, contexts=-5), ArgumentRange, "contexts=-5 must be a whole"),
        (lambda: manifold(adder, "resid_post[0]", TaskVariable()), TokenizerMissing, "tokenizer.json"),
        (lambda: manifold_intervention(adder, "embed", Positions()), PromptInvalid, "windows="),
        (lambda: manifold_intervention(adder, "embed", ANSWER, steps=()), InstrumentOption, "at least one"),
        (lambda: subspace_stability(adder, "embed", ANSWER, components=9), InstrumentOption, "components=9"),
        (lambda: subspace_stability(adder, "embed", ANSWER, other=model()), InstrumentOption, "one tokenizer"),
        (lambda: WordList(("a",), ("no slot",)), PromptInvalid, "have {}"),
        (lambda: manifold(adder, "embed", SUMMAND, view="ica"), SignalsShape, "fewer than 3 dimensions"),
    ):
        with pytest.raises(error, match=match):
            call()
    glass = cloche.Glass(LM(259, 32, Stack(1, Block(Attention(4), GLU()))).build(seed=0), tokenizer())
    with pytest.raises(TaskInvalid, match="no variable 'sum'"):
        manifold(glass, "embed", TaskVariable(ModularAdd(p=7), "sum"))
    with pytest.raises(TaskInvalid, match="no place 'number_9'"):
        manifold(glass, "embed", TaskVariable(ModularAdd(p=7), place="number_9"))
    with pytest.raises(SiteUnsuitable, match="per head"):
        manifold_intervention(glass, "z[0]", TaskVariable(ModularAdd(p=7)))
