"""A learned controller of the optimiser: update rules, small tasks, training by evolution, comparison with fixed settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.train.controller.controller import Controller
    from cloche.train.controller.evolution import Evolution
    from cloche.train.controller.families import Classification, Family, Quadratic, Regression, Tasks
    from cloche.train.controller.inner_loop import Outcome, rollout
    from cloche.train.controller.learned import Learned
    from cloche.train.controller.policies import Annealed, Fixed, Policy, Steered
    from cloche.train.controller.rules import AdamSteps, HeavyBall, UpdateRule
    from cloche.train.controller.search import TaskSearch, controller_of, mean_ranks, search_policy
    from cloche.train.controller.unseen import DeepRegression, Factorisation, SymbolModel

__all__ = [
    "AdamSteps",
    "Annealed",
    "Classification",
    "Controller",
    "DeepRegression",
    "Evolution",
    "Factorisation",
    "Family",
    "Fixed",
    "HeavyBall",
    "Learned",
    "Outcome",
    "Policy",
    "Quadratic",
    "Regression",
    "Steered",
    "SymbolModel",
    "TaskSearch",
    "Tasks",
    "UpdateRule",
    "controller_of",
    "mean_ranks",
    "rollout",
    "search_policy",
]

__getattr__ = lazy(__name__)
