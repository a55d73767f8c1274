"""Activation patching and ablation: what must come out exactly, in bodies of every kind, and what must not."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

import cloche
from cloche import GLU, LM, MLP, Attention, Block, LayerNorm, RoPE, Stack, Window
from cloche.errors import ClocheError
from cloche.interp import KLDivergence, LogitDifference, LogProbability, Metric, Rank, ablation, activation_patching
from cloche.interp.metrics import preference_notes
from cloche.interp.patching.cells import contrasts, last_logits
from cloche.interp.patching.optimal import best_constants
from cloche.interp.patching.replacements import Kind
from cloche.model import MoE
from cloche.tasks import Add, KeyValue, PromptPair

VOCAB = 259
BODIES = {
    "llama": Block(Attention(4, kv_heads=2, position=RoPE()), GLU(hidden=64)),
    "gpt2": Block(Attention(4, bias=True), MLP("gelu", hidden=64), norm=LayerNorm()),
    "experts": Block(Attention(4, position=RoPE()), MoE(experts=4, active=2, expert=GLU(hidden=16))),
    "window": Block(Attention(2, position=RoPE(), mask=Window(8)), GLU(hidden=64)),
}


@pytest.fixture(scope="module")
def tokenizer() -> cloche.Tokenizer:
    return cloche.train_bpe(["a"], vocab=VOCAB)


@pytest.fixture(scope="module", params=BODIES)
def glass(request: pytest.FixtureRequest, tokenizer: cloche.Tokenizer) -> cloche.Glass:
    spec = LM(VOCAB, 32, Stack(2, BODIES[request.param]))
    return cloche.Glass(spec.build(seed=1), tokenizer)


def test_only_the_variable_that_differs_carries_the_answer_at_the_bottom(glass: cloche.Glass) -> None:
    task = Add()
    finding = activation_patching(glass, task, pairs=6, level=2)
    columns = finding.data["columns"]
    for pair, grid in zip(task.items(glass.tokenizer, 6, 2), finding.arrays["effects"], strict=True):
        for column, effect in zip(columns, grid[0], strict=True):
            assert effect == pytest.approx(float(column == pair.item.corrupted.variable), abs=1e-4), (column, grid[0])


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_last_residual_at_the_last_token_is_the_whole_answer(glass: cloche.Glass, direction: str) -> None:
    finding = activation_patching(glass, Add(), site="resid_post", direction=direction, pairs=3)
    last = finding.arrays["effects"][:, -1]  # [pair, place]
    assert last[:, -1] == pytest.approx(1, abs=1e-4)
    assert last[:, :-1] == pytest.approx(0, abs=1e-4), "earlier tokens are not read after the last layer"


def test_a_cell_is_what_one_edited_run_gives(glass: cloche.Glass) -> None:
    task, net = Add(), glass.net
    finding = activation_patching(glass, task, site="z", pairs=2)
    pair = task.items(glass.tokenizer, 2)[1]
    shared = next(i for i, (a, b) in enumerate(zip(pair.answer_ids, pair.corrupted_answer_ids)) if a != b)  # noqa: B905
    answer, against = pair.answer_ids[shared], pair.corrupted_answer_ids[shared]
    clean, corrupted = ([[*ids, *pair.answer_ids[:shared]]] for ids in (pair.ids, pair.corrupted_ids))

    def difference(ids: list[list[int]], *edits: object) -> float:
        logits = net.run(ids, edits=edits).logits[0, -1]
        return float(logits[answer] - logits[against])

    source = net.run(clean, save="z.all")
    patched = difference(corrupted, net.sites.z[1].head(0).replace(source))
    wanted = (patched - difference(corrupted)) / (difference(clean) - difference(corrupted))
    assert finding.arrays["effects"][1, 1, 0] == pytest.approx(wanted, abs=1e-4)


KINDS = get_args(Kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_that_writes_nothing_is_missed_by_no_ablation(tokenizer: cloche.Tokenizer, kind: Kind) -> None:
    net = LM(VOCAB, 32, Stack(2, BODIES["llama"])).build(seed=1).double()
    with torch.no_grad():
        net.layers[1].mix.out.weight[:, 8:16] = 0  # head 1 of layer 1
    finding = ablation(cloche.Glass(net, tokenizer), KeyValue(), kind=kind, pairs=3)
    falls = abs(finding.arrays["falls"])
    assert falls[:, 1, 1].max() < 1e-12 < 1e-5 < falls[:, 1, 0].max() and finding.null["largest"] < 1e-12  # type: ignore[index]


def test_what_is_constant_over_the_data_is_lost_to_zero_ablation_alone(tokenizer: cloche.Tokenizer) -> None:
    """A value bias that every position adds alike: the mean keeps it, and so do another prompt's value and its own spread."""
    net = LM(VOCAB, 32, Stack(1, BODIES["gpt2"])).build(seed=1)
    with torch.no_grad():
        net.layers[0].mix.qkv.weight[64:] = 0  # values are their bias alone
        net.layers[0].mix.qkv.bias[64:] = torch.randn(32, generator=torch.Generator().manual_seed(0))
    largest = {
        kind: abs(ablation(cloche.Glass(net, tokenizer), KeyValue(), kind=kind, pairs=3).arrays["falls"]).max()
        for kind in KINDS
    }
    assert largest.pop("zero") > 1e-2 and max(largest.values()) < 1e-5


def test_the_optimal_constant_is_the_best_of_all_numbers(tokenizer: cloche.Tokenizer) -> None:
    """Heads of one number each: the best constant is found by trying many."""
    net = LM(VOCAB, 4, Stack(1, Block(Attention(4), GLU()))).build(seed=1)
    with torch.no_grad():
        net.layers[0].mix.qkv.weight.mul_(30)
        net.layers[0].mix.out.weight.mul_(30)
    found = contrasts(cloche.Glass(net, tokenizer), KeyValue(), 2, None, 0)
    constants = best_constants(net, "z", found)
    assert (constants.kl <= constants.kl_mean).all() and constants.kl.mean() < 0.9 * constants.kl_mean.mean()
    clean = [last_logits(net, contrast.clean).log_softmax(-1) for contrast in found]
    tried = torch.linspace(-4, 4, 201)
    for head in range(4):
        site = net.sites.z[0].head(head)
        kl = torch.zeros(len(tried))
        for contrast, right in zip(found, clean, strict=True):
            edits = [site.replace(number[None]) for number in tried]
            rows = net.sweep(contrast.clean, edits, lambda logits: logits[0, -1].log_softmax(-1))
            kl += (right.exp() * (right - rows)).sum(-1) / len(found)
        assert constants.kl[0, head] <= kl.min() + 0.02 * constants.kl_mean[0, head]


def test_optimal_ablation_is_reported_on_other_prompts_than_it_is_fitted_on(glass: cloche.Glass) -> None:
    optimal, mean = (ablation(glass, Add(), kind=kind, pairs=2, metric=KLDivergence()) for kind in ("optimal", "mean"))
    assert len(optimal.arrays["falls"]) == 2 and optimal.figures["clean"] == mean.figures["clean"] == 0
    assert (optimal.arrays["kl"] <= optimal.arrays["kl_mean"]).all()
    assert optimal.data["replaced_by"] == "the constant of the least KL divergence on 2 other prompts"
    assert "p" not in optimal.figures, "no answer is read"


def test_resampled_values_come_from_the_same_positions_of_other_prompts(glass: cloche.Glass) -> None:
    net, task = glass.net, Add()
    finding = ablation(glass, task, site="mlp_out", kind="resample", pairs=5, level=2)
    found = contrasts(glass, task, 5, 2, 0)
    first = max(found, key=lambda one: sum(one.clean.shape == other.clean.shape for other in found))
    falls = []
    others = [other for other in found if other is not first and other.clean.shape == first.clean.shape]
    for other in others:
        source = net.run(other.clean, save="mlp_out.all")
        clean, edited = (
            net.run(first.clean, edits=edits).logits[0, -1] for edits in ([], [net.sites.mlp_out[1].replace(source)])
        )
        falls.append(float((clean - edited)[first.answer] - (clean - edited)[first.against]))
    assert finding.arrays["falls"][found.index(first), 1, 0] == pytest.approx(sum(falls) / len(others), abs=1e-5)
    assert len(others) > 1 and finding.arrays["spread"].min() > 0
    alone = ablation(glass, PromptPair("ab cd", "ab ce", " x", " y"), kind="resample")
    assert alone.data["replaced_by"] == "its values on the corrupted prompt"


@pytest.mark.parametrize("metric", [LogitDifference(), LogProbability(), KLDivergence(), Rank()])
def test_many_answers_are_read_as_one_by_one(metric: Metric) -> None:
    draw = torch.Generator().manual_seed(0)
    logits, clean = torch.randn(3, 9, generator=draw).round(decimals=1), torch.randn(9, generator=draw)
    pairs = torch.randint(9, (5, 2), generator=draw)
    wanted = [[metric.read(row, *pair, clean) for pair in pairs.tolist()] for row in logits]
    assert torch.equal(metric.read_many(logits, pairs, clean), torch.tensor(wanted))
    assert torch.equal(Metric.read_many(metric, logits, pairs, clean), torch.tensor(wanted))


@pytest.mark.parametrize("metric", [LogProbability(), KLDivergence()])
def test_every_metric_is_scaled_to_the_same_ends(glass: cloche.Glass, metric: Metric) -> None:
    finding = activation_patching(glass, Add(), site="resid_post", metric=metric, pairs=2, level=3)
    assert finding.arrays["effects"][:, -1, -1] == pytest.approx(1, abs=1e-3)


def test_a_pair_of_ones_own_is_patched_token_by_token(glass: cloche.Glass) -> None:
    task = PromptPair("ab cd", "ab ce", " x", " y")
    finding = activation_patching(glass, task)
    assert finding.data["columns"] == ["0 'a'", "1 'b'", "2 ' '", "3 'c'", "4 'd'", "5 ' '"]
    assert finding.arrays["effects"][0, 0] == pytest.approx([0, 0, 0, 0, 1, 0], abs=1e-4)


def test_what_cannot_be_patched_is_one_sentence(glass: cloche.Glass) -> None:
    flat = cloche.Glass(glass.net, glass.tokenizer)
    cases = {
        "pairs=0 must be a whole number of at least 1": lambda: activation_patching(flat, Add(), pairs=0),
        "at most 10,000": lambda: activation_patching(flat, Add(), pairs=10**20),
        "has no site": lambda: activation_patching(flat, Add(), site="resid_prex"),
        "a value for each pair of tokens": lambda: activation_patching(flat, Add(), site="pattern"),
        "a single pair; choose kind='mean'": lambda: ablation(flat, PromptPair("a", "b", " x", " y"), kind="optimal"),
        "is not a kind of ablation": lambda: ablation(flat, Add(), kind="remove"),  # type: ignore[arg-type]
        "give the right one of each prompt": lambda: PromptPair("a", "b", " x", "x"),
    }
    for sentence, call in cases.items():
        with pytest.raises(ClocheError, match=sentence) as error:
            call()
        assert str(error.value).count(". ") == 0


def test_a_task_that_the_model_cannot_do_is_said_so() -> None:
    assert preference_notes(LogitDifference(), 0.5) == [] == preference_notes(LogProbability(), -3.0)
    (note,) = preference_notes(LogitDifference(), -0.637)
    assert "-0.637" in note and "cannot do" in note
