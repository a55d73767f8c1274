"""Training: the recipe, the objective, the optimisers, the health of what grows, and the loop."""

from glasshouse.train.calibrate import calibrate
from glasshouse.train.corpus import prepare_data
from glasshouse.train.evaluate import Score, evaluate, sample
from glasshouse.train.gemm import best_precision, gemm_rate, gemm_rates
from glasshouse.train.health import Health
from glasshouse.train.loop import Trainer
from glasshouse.train.muon import Muon
from glasshouse.train.objective import NextToken
from glasshouse.train.optimizer import Optimizer
from glasshouse.train.recipe import Recipe

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
    "evaluate",
    "gemm_rate",
    "gemm_rates",
    "prepare_data",
    "sample",
]
