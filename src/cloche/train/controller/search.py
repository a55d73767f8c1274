"""Searches for the best vector of a policy on small tasks, by evolution."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cloche.errors import PartInvalid
from cloche.part import Part, positive, within
from cloche.train.controller.controller import NO_DECAY, Controller
from cloche.train.controller.evolution import Evolution
from cloche.train.controller.families import Classification, Family, Quadratic, Regression
from cloche.train.controller.inner_loop import rollout
from cloche.train.controller.policies import START, Policy
from cloche.train.controller.rules import UpdateRule
from cloche.train.controller.symbols import SymbolModel

HELD_OUT = 1_000_000  # seeds of tasks from here on are never trained on


@dataclass(frozen=True)
class TaskSearch(Part):
    """Settings of a search: in each generation, `population` candidates train `tasks` new tasks of each family and are ranked
    within each task; a candidate's score is its mean rank. Runs are of so many `steps` in turn, generation by generation.

    >>> from cloche.train.controller import TaskSearch
    >>> TaskSearch(generations=10, population=8, tasks=4).trials
    1600
    """

    generations: int = 100
    population: int = 20
    tasks: int = 6
    steps: tuple[int, ...] = (40, 80, 120)
    families: tuple[Family, ...] = (
        Quadratic(),
        Quadratic(noise=0.1),
        Regression(),
        Classification(),
        SymbolModel(symbols=12, width=6, hidden=12, batch=16),
    )

    def __post_init__(self) -> None:
        positive(self, generations=self.generations, population=self.population, tasks=self.tasks)
        within(self, population=(2, 10**6))
        if not self.steps or not self.families or min(self.steps) < 1:
            raise PartInvalid("TaskSearch needs at least one family, and runs of at least one step; give them.")

    @property
    def trials(self) -> int:
        """Training runs of one task that the search spends."""
        return self.generations * self.population * self.tasks * len(self.families)


def mean_ranks(scores: Tensor) -> Tensor:
    """Mean rank [candidate] within each task, between 0 (best) and 1; equal scores share their rank, and a run that diverged
    counts 2, so that no candidate gains by diverging on some tasks. scores: [candidate, task].

    >>> import torch
    >>> from cloche.train.controller import mean_ranks
    >>> mean_ranks(torch.tensor([[1.0, 5.0], [2.0, 4.0], [9.0, torch.inf]]))
    tensor([0.2500, 0.2500, 1.5000])
    """
    below = (scores[:, None] > scores[None]).sum(1)
    equal = (scores[:, None] == scores[None]).sum(1) - 1
    ranks = (below + 0.5 * equal) / max(1, len(scores) - 1)
    return torch.where(scores.isinf(), 2.0, ranks).mean(1)


def search_policy(
    policy: Policy,
    rule: UpdateRule,
    settings: TaskSearch = TaskSearch(),
    seed: int = 0,
    shuffled: bool = False,
    on_generation: Callable[[int, float], None] | None = None,
) -> Tensor:
    """The vector [policy.size] that evolution finds: the mean of its last distribution.

    shuffled: each generation's scores are in random order (so no task is trained), the control in which nothing can be learned.
    on_generation: called with the generation and the share of runs that diverged.

    >>> from cloche.train.controller import Fixed, HeavyBall, Quadratic, TaskSearch, search_policy
    >>> settings = TaskSearch(generations=10, population=10, tasks=4, steps=(30,), families=(Quadratic(size=4),))
    >>> vector = search_policy(Fixed(lr=100.0), HeavyBall(), settings)
    >>> bool(vector[0].exp() < 10)
    True
    """
    evolution = Evolution(policy.centre(), policy.spreads(), settings.population, seed)
    random = np.random.default_rng([seed, 1])
    for generation in range(settings.generations):
        candidates = evolution.ask()
        if shuffled:
            evolution.tell(candidates, random.permutation(settings.population).astype(float))
            continue
        steps = settings.steps[generation % len(settings.steps)]
        vectors, found = torch.from_numpy(candidates).float(), []
        for number, family in enumerate(settings.families):
            drawn = (seed * settings.generations + generation) * len(settings.families) + number
            tasks = family.draw(settings.tasks, drawn % HELD_OUT, steps)
            found.append(rollout(policy, vectors, rule, family, tasks, steps).scores)
        scores = torch.cat(found, 1)
        evolution.tell(candidates, mean_ranks(scores).double().numpy())
        if on_generation is not None:
            on_generation(generation, scores.isinf().float().mean().item())
    return torch.from_numpy(evolution.mean).float()


def controller_of(vector: Tensor, rule: UpdateRule) -> Controller:
    """The controller of a vector that was found for `Steered`.

    >>> import torch
    >>> from cloche.train.controller import HeavyBall, Steered, controller_of
    >>> round(controller_of(torch.from_numpy(Steered(lr=0.5).centre()), HeavyBall()).momentum, 3)
    0.9
    """
    lr, slack, decay = (math.exp(value) for value in vector[:START].tolist())
    return Controller(
        vector[START:].float().clone(), rule, lr, max(1 - slack, 0.0), min(max(decay - NO_DECAY, 0.0), 1.0)
    )
