"""Training of a controller: truths of the inner loop, of the search, and their controls."""

import math

import numpy as np
import pytest
import torch

from cloche.errors import ClocheError
from cloche.train.controller import (
    AdamSteps,
    Evolution,
    Fixed,
    HeavyBall,
    Quadratic,
    TaskSearch,
    mean_ranks,
    rollout,
    search_policy,
)


def optimum(smallest, largest):
    """Polyak's rate and momentum for eigenvalues between these, and the contraction per step that they give."""
    ratio = math.sqrt(largest / smallest)
    contraction = (ratio - 1) / (ratio + 1)
    return 4 / (math.sqrt(largest) + math.sqrt(smallest)) ** 2, contraction**2, contraction


@pytest.mark.parametrize("seed", [0, 1])
def test_heavy_ball_contracts_at_polyaks_rate(seed):
    """The iterates of a double root are t r^t: the slope of log(norm / t) is log r."""
    family, steps = Quadratic(size=6), 60
    tasks = family.draw(1, seed, steps)
    rate, momentum, contraction = optimum(tasks.data["values"].min().item(), tasks.data["values"].max().item())
    vector = torch.tensor([[math.log(rate), math.log(1 - momentum), -30.0]])
    tasks.data, tasks.weights = {k: v.double() for k, v in tasks.data.items()}, [w.double() for w in tasks.weights]
    losses = rollout(Fixed(), vector.double(), HeavyBall(), family, tasks, steps).losses[:, 0, 0]
    at = torch.arange(20, steps)
    found = 0.5 * (losses[at] / at**2).log()
    slope = np.polyfit(at.numpy(), found.numpy(), 1)[0]
    assert slope == pytest.approx(math.log(contraction), rel=0.05)


def test_evolution_finds_a_minimum_in_a_narrow_valley_and_drifts_on_shuffled_scores():
    """Rosenbrock's function in 5 dimensions; with shuffled scores the mean only wanders."""

    def valley(x):
        return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)

    search, control, random = (
        *(Evolution(np.zeros(5), np.ones(5), 12, seed=0) for _ in range(2)),
        np.random.default_rng(0),
    )
    for _ in range(400):
        candidates = search.ask()
        search.tell(candidates, valley(candidates))
        candidates = control.ask()
        control.tell(candidates, random.permutation(valley(candidates)))
    assert np.abs(search.mean - 1).max() < 1e-4
    assert valley(control.mean[None])[0] > 1.0


def test_ranks_are_shared_by_equals_and_divergence_counts_more_than_the_last_rank():
    scores = torch.tensor([[1.0, 3.0], [1.0, 2.0], [5.0, math.inf]])
    torch.testing.assert_close(mean_ranks(scores), torch.tensor([(0.25 + 0.5) / 2, 0.125, 1.5]))


def test_a_search_needs_two_candidates_to_rank():
    with pytest.raises(ClocheError, match=r"TaskSearch\(population=1\) must lie between 2"):
        TaskSearch(population=1)


def test_weight_decay_does_not_help_on_a_quadratic():
    """The minimum is not at zero, where decay would lead."""
    family = Quadratic()
    tasks = family.draw(8, seed=1, steps=50)
    vectors = torch.tensor([[-3.0, -2.0, 0.0], [-3.0, -2.0, -30.0]])
    scores = rollout(Fixed(), vectors, AdamSteps(), family, tasks, steps=50).scores
    assert (scores[1] < scores[0]).all()


def test_a_search_learns_a_rate_and_shuffled_scores_teach_none():
    family, steps = Quadratic(size=4), 30
    settings = TaskSearch(generations=20, population=10, tasks=6, steps=(steps,), families=(family,))
    start = Fixed(lr=1e-4)
    found, control = (search_policy(start, AdamSteps(), settings, seed=1, shuffled=off) for off in (False, True))
    vectors = torch.stack([found, control, torch.from_numpy(start.centre()).float()])
    tasks = family.draw(40, 2_000_000, steps)
    learned, taught_nothing, before = rollout(start, vectors, AdamSteps(), family, tasks, steps).scores
    assert (learned < before).float().mean() > 0.9 and (learned < taught_nothing).float().mean() > 0.9
    assert learned.median() < 0.1 * taught_nothing.median()
