"""Comparisons of a controller with fixed settings: intervals that cover, a tuned opponent, what is constant."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.train.learned_controller import check, run
from cloche.train.controller import (
    AdamSteps,
    Fixed,
    Quadratic,
    Replayed,
    Steered,
    constant_knobs,
    held_out,
    outcomes,
    tuned_per_task,
    win_rate,
)

STORED = Path(__file__).parents[2] / "bench" / "results" / "learned_controller.json"


def test_equal_scores_are_half_a_win_and_divergence_loses():
    same = win_rate(torch.ones(40), torch.ones(40))
    assert same.rate == 0.5 and same.low < 0.5 < same.high and same.gain == 0
    assert win_rate(torch.full((4,), torch.inf), torch.ones(4)).rate == 0
    assert win_rate(torch.ones(4), torch.full((4,), torch.inf)).rate == 1


def test_intervals_cover_the_true_win_rate_at_their_level():
    """Scores 0.5 lower on average, over 50 tasks: P(win) = Phi(0.5 / sqrt 2) = 0.638, and the median log ratio is -0.5."""
    g = torch.Generator().manual_seed(0)
    found = [
        win_rate((torch.randn(50, generator=g) - 0.5).exp(), torch.randn(50, generator=g).exp(), seed)
        for seed in range(200)
    ]
    assert np.mean([rate.low <= 0.638 <= rate.high for rate in found]) == pytest.approx(0.95, abs=0.04)
    assert np.mean([rate.gain_low <= -0.5 <= rate.gain_high for rate in found]) == pytest.approx(0.95, abs=0.05)
    assert np.mean([rate.low > 0.5 for rate in found]) < 0.8  # fifty tasks do not always suffice


@pytest.fixture(scope="module")
def drawn():
    return held_out([Quadratic(size=4)], tasks=6, steps=20)


def test_tuning_helps_more_with_more_trials(drawn):
    vector = torch.tensor([-9.0, -2.3, -20.0])
    best = tuned_per_task(Fixed(), vector, AdamSteps(), drawn, 20, trials=12)
    assert best.shape == (12, 12) and (best.diff(dim=0) <= 0).all() and (best[-1] < best[0]).all()


def test_a_controller_of_zeros_is_reported_as_constant_and_a_random_one_is_not(drawn):
    zeros = torch.from_numpy(Steered().centre()).float()
    random = zeros + torch.cat([torch.zeros(3), torch.randn(83, generator=torch.Generator().manual_seed(0))])
    still, moving = (outcomes(Steered(), vector[None], AdamSteps(), drawn, 20) for vector in (zeros, random))
    assert constant_knobs(still)["constant"] == 1 and constant_knobs(moving)["constant"] == 0
    assert constant_knobs(outcomes(Fixed(), zeros[None, :3], AdamSteps(), drawn, 20))["constant"] == 1


def test_a_replayed_constant_is_that_constant(drawn):
    vector = torch.tensor([[-4.0, -1.0, -6.0]])
    runs = outcomes(Fixed(), vector, AdamSteps(), drawn, 20)
    replayed = Replayed.of(runs)
    again = outcomes(replayed, replayed.vector, AdamSteps(), drawn, 20)
    torch.testing.assert_close(again[0].scores, runs[0].scores, rtol=1e-3, atol=1e-9)


def test_the_stored_figures_pass_and_those_of_shuffled_scores_do_not():
    stored = json.loads(STORED.read_text())
    check(stored["seeds"]["0"])
    with pytest.raises(AssertionError, match="does not win"):
        check(stored["shuffled_scores"])


@pytest.mark.slow
def test_the_quick_bench_runs():
    figures = run(0, quick=True)
    assert figures["heavy_ball: held-out tasks"] >= 40 and figures["heavy_ball: quadratic, rate_error_median"] < 0.05
    assert figures["heavy_ball: quadratic, optimum"] < figures["heavy_ball: quadratic, constant"]
