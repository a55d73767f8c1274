"""Two layers grown on repeated random tokens learn induction: which heads do it, since when, what is left without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from grown import VOCAB, grow

import cloche
from cloche import Glass
from cloche.interp import attention_patterns, head_scores
from cloche.model import Edit
from cloche.runs import Run

pytestmark = pytest.mark.slow
LENGTH, CHANCE = 10, torch.tensor(float(VOCAB)).log().item()  # nats


def second_half(glass: Glass, edits: list[Edit] | None = None) -> float:
    """Nats per token of the second half of repeated texts that were not trained on."""
    draw = torch.rand(64, VOCAB, generator=torch.Generator().manual_seed(99)).argsort(-1)[:, :LENGTH]
    ids = draw.repeat(1, 2)
    nats = -glass.net.run(ids, edits=edits or []).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])
    return float(nats[:, LENGTH:].mean())


def test_the_heads_are_found_and_without_them_the_skill_is_gone(grown_induction: Run) -> None:
    glass = cloche.load(grown_induction)
    z, scores = glass.net.sites.z, head_scores(glass, length=LENGTH, ablate=True).arrays
    induction, previous = scores["induction"], scores["previous"]
    layer, head = divmod(int(induction.argmax()), 2)
    assert (layer, induction[layer, head] > 0.85, induction[0].max() < 0.1) == (1, True, True)
    assert scores["copying"][layer, head] > 0.9 and previous[0].max() > 0.6 and previous[1].max() < 0.2
    assert second_half(glass) < 0.1
    assert second_half(glass, [z[layer].head(head).zero()]) > 0.95 * CHANCE
    lost = scores["ablated"]
    assert lost.argmax() == 2 * layer + head and lost[layer, head] > 0.9 * CHANCE
    other = 1 - head
    assert second_half(glass, [z[layer].head(other).zero()]) < 0.15 * CHANCE
    worst = second_half(glass, [z[0].head(int(previous[0].argmax())).zero()])
    assert worst > 0.3 * CHANCE
    assert second_half(glass, [z[0].head(0).zero(), z[0].head(1).zero()]) > 0.95 * CHANCE
    shown = attention_patterns(glass, [3, 1, 4, 15, 9, 2, 6, 3, 1, 4])
    assert [layer, head] in shown.data["heads"] and shown.figures["concentration"] > 0.3


def test_the_onset_is_within_one_checkpoint_of_the_loss_drop(grown_induction: Run) -> None:
    found = cloche.trace(grown_induction, "head-scores", length=LENGTH)
    steps = found.data["steps"]
    losses = [second_half(cloche.load(grown_induction, each.name)) for each in grown_induction.checkpoints()]
    half = (losses[0] + losses[-1]) / 2
    drop = next(i for i, loss in enumerate(losses) if max(losses[i:]) < half)
    onset = found.arrays["induction_onset"]
    layer, head = divmod(int(found.arrays["induction"][-1].argmax()), 2)
    assert abs(steps.index(int(onset[layer, head])) - drop) <= 1
    at = found.data["curves"]["induction"]["onsets"][2 * layer + head]
    assert at["low"] <= at["onset"] <= at["high"] and at["gain"] > 0.8
    assert abs(steps.index(int(found.arrays["previous_onset"][0].min())) - drop) <= 1
    assert f"layer {layer} head {head}" in found.summary


def test_one_layer_and_an_untrained_model_have_no_induction_head(tmp_path: Path, grown_induction: Run) -> None:
    one = cloche.load(grow(tmp_path / "one", layers=1))
    scores = head_scores(one, length=LENGTH).arrays
    assert scores["induction"].max() < 0.25 and scores["previous"].max() < 0.25 and second_half(one) > 1.0
    untrained = cloche.load(grown_induction, grown_induction.checkpoints()[0].name)
    found = head_scores(untrained, length=LENGTH)
    assert found.null is not None and found.figures["induction"] < 1.5 * found.null["induction"] < 0.15
