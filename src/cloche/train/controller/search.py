"""Searches for the best vector of a policy on small tasks, by evolution."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cloche.part import Part, positive
from cloche.train.controller.controller import Controller
from cloche.train.controller.evolution import Evolution
from cloche.train.controller.families import Classification, Family, Quadratic, Regression
from cloche.train.controller.policies import START, Policy
from cloche.train.controller.rollout import rollout
from cloche.train.controller.rules import HeavyBall, UpdateRule

HELD_OUT = 1_000_000  # seeds of tasks from here on are never trained on


@dataclass(frozen=True)
class TaskSearch(Part):
    """Settings of a search: in each generation, `population` candidates train `tasks` new tasks of each family, in runs of
    `steps` steps, and are ranked within each task; a candidate's score is its mean rank.

    >>> from cloche.train import TaskSearch
    >>> TaskSearch(generations=10, population=8, tasks=4).trials
    1280
    """

    generations: int = 150
    population: int = 24
    tasks: int = 12
    steps: int = 100
    families: tuple[Family, ...] = (Quadratic(), Quadratic(noise=0.1), Regression(), Classification())

    def __post_init__(self) -> None:
        positive(self, generations=self.generations, population=self.population, tasks=self.tasks, steps=self.steps)

    @property
    def trials(self) -> int:
        """Training runs of one task that the search spends."""
        return self.generations * self.population * self.tasks * len(self.families)


def mean_ranks(scores: Tensor) -> Tensor:
    """Mean rank [candidate] within each task, between 0 (best) and 1; equal scores share their rank. scores: [candidate, task].

    >>> import torch
    >>> from cloche.train.controller.search import mean_ranks
    >>> mean_ranks(torch.tensor([[1.0, 5.0], [2.0, 4.0], [9.0, torch.inf]]))
    tensor([0.2500, 0.2500, 1.0000])
    """
    below = (scores[:, None] > scores[None]).sum(1)
    equal = (scores[:, None] == scores[None]).sum(1) - 1
    return ((below + 0.5 * equal) / max(1, len(scores) - 1)).mean(1)


def search_policy(
    policy: Policy,
    rule: UpdateRule,
    settings: TaskSearch = TaskSearch(),
    seed: int = 0,
    shuffled: bool = False,
    on_generation: Callable[[int, float], None] | None = None,
) -> Tensor:
    """The vector [policy.size] that evolution finds: the mean of its last distribution.

    shuffled: scores are shuffled among the candidates, the control in which nothing can be learned. on_generation: called with
    the generation and the share of runs that diverged.

    >>> from cloche.train import Constant, HeavyBall, Quadratic, TaskSearch, search_policy
    >>> settings = TaskSearch(generations=10, population=10, tasks=4, steps=30, families=(Quadratic(size=4),))
    >>> vector = search_policy(Constant(lr=100.0), HeavyBall(), settings)
    >>> bool(vector[0].exp() < 10)
    True
    """
    evolution = Evolution(policy.centre(), policy.spreads(), settings.population, seed)
    random = np.random.default_rng([seed, 1])
    for generation in range(settings.generations):
        candidates = evolution.ask()
        vectors, found = torch.from_numpy(candidates).float(), []
        for number, family in enumerate(settings.families):
            drawn = (seed * settings.generations + generation) * len(settings.families) + number
            tasks = family.draw(settings.tasks, drawn % HELD_OUT, settings.steps)
            found.append(rollout(policy, vectors, rule, family, tasks, settings.steps).scores)
        ranks = mean_ranks(torch.cat(found, 1)).double().numpy()
        evolution.tell(candidates, random.permutation(ranks) if shuffled else ranks)
        if on_generation is not None:
            on_generation(generation, torch.cat(found, 1).isinf().float().mean().item())
    return torch.from_numpy(evolution.mean).float()


def controller_of(vector: Tensor, rule: UpdateRule) -> Controller:
    """The controller of a vector that was found for `Steered`.

    >>> import torch
    >>> from cloche.train import HeavyBall, Steered, controller_of
    >>> round(controller_of(torch.from_numpy(Steered(lr=0.5).centre()), HeavyBall()).momentum, 3)
    0.9
    """
    lr, slack, decay = (math.exp(value) for value in vector[:START].tolist())
    return Controller(vector[START:].float().clone(), rule, lr, 1 - min(slack, 1.0), min(decay, 1.0))
