"""A learned controller of the optimiser: update rules, small tasks, training by evolution, comparison with fixed settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.train.controller.comparison import (
        Replayed,
        WinRate,
        constant_knobs,
        held_out,
        outcomes,
        tuned_per_task,
        win_rate,
    )
    from cloche.train.controller.controller import Controller
    from cloche.train.controller.evolution import Evolution
    from cloche.train.controller.families import Classification, Family, Quadratic, Regression, Tasks
    from cloche.train.controller.inner_loop import Outcome, rollout
    from cloche.train.controller.learned import Learned
    from cloche.train.controller.policies import Annealed, Fixed, Policy, Steered
    from cloche.train.controller.rules import AdamSteps, HeavyBall, UpdateRule
    from cloche.train.controller.search import TaskSearch, controller_of, mean_ranks, search_policy
    from cloche.train.controller.symbols import SymbolModel
    from cloche.train.controller.unseen import DeepRegression, Factorisation

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
    "Replayed",
    "Steered",
    "SymbolModel",
    "TaskSearch",
    "Tasks",
    "UpdateRule",
    "WinRate",
    "constant_knobs",
    "controller_of",
    "held_out",
    "mean_ranks",
    "outcomes",
    "rollout",
    "search_policy",
    "tuned_per_task",
    "win_rate",
]

__getattr__ = lazy(__name__)
