"""Training: the recipe, the objective, the optimisers, the health of what grows, and the loop."""

from cloche.train.corpus import prepare_data
from cloche.train.evaluate import Score, evaluate, sample
from cloche.train.limits import check_fits, check_recipe
from cloche.train.loop import Trainer
from cloche.train.machine.calibrate import calibrate
from cloche.train.machine.gemm import best_precision, gemm_rate, gemm_rates
from cloche.train.monitors.health import Health
from cloche.train.monitors.journal import is_finished
from cloche.train.objectives.next_token import NextToken
from cloche.train.optimizers.muon import Muon
from cloche.train.optimizers.optimizer import Optimizer
from cloche.train.prompts import opening
from cloche.train.recipe import Recipe

__all__ = [
    "Health",
    "Muon",
    "NextToken",
    "Optimizer",
    "Recipe",
    "Score",
    "Trainer",
    "best_precision",
    "calibrate",
    "check_fits",
    "check_recipe",
    "evaluate",
    "gemm_rate",
    "gemm_rates",
    "is_finished",
    "opening",
    "prepare_data",
    "sample",
]
