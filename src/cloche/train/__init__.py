"""Training: recipes, objectives, optimisers, schedules, the training loop and its health monitor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.train.controller.learned import Learned
    from cloche.train.corpus import prepare_data
    from cloche.train.evaluation import Score, evaluate, sample
    from cloche.train.intact import require_same_tokens
    from cloche.train.loop import Loop, Setup
    from cloche.train.machine.calibrate import calibrate
    from cloche.train.machine.gemm import best_precision, gemm_rate, gemm_rates
    from cloche.train.monitors.callbacks import Callback
    from cloche.train.monitors.health import Health
    from cloche.train.monitors.journal import is_finished
    from cloche.train.monitors.noise import NoiseScale
    from cloche.train.monitors.provenance import weights_hash
    from cloche.train.monitors.records import read_records
    from cloche.train.monitors.steps import parts_of
    from cloche.train.monitors.warning import Alarm, EarlyWarning, Tolerance
    from cloche.train.objectives.batch import Examples, TokenBatch
    from cloche.train.objectives.denoising import Denoising, SpanCorruption
    from cloche.train.objectives.diffusion import MaskedDiffusion
    from cloche.train.objectives.feedback import FeedbackAlignment
    from cloche.train.objectives.infilling import FillInTheMiddle
    from cloche.train.objectives.multi_token import MultiToken
    from cloche.train.objectives.next_token import LastToken, NextToken, Windowed
    from cloche.train.objectives.objective import Objective, Term, total_loss
    from cloche.train.objectives.prediction import Prediction
    from cloche.train.objectives.prefix import PrefixLM, PrefixSpans
    from cloche.train.objectives.wrapping import Wrapping
    from cloche.train.optimizers.adamw import AdamW
    from cloche.train.optimizers.average import EMA, Average
    from cloche.train.optimizers.descent import SGD, RMSprop
    from cloche.train.optimizers.groups import Group
    from cloche.train.optimizers.kfac import KFAC
    from cloche.train.optimizers.kronecker.shampoo import Shampoo
    from cloche.train.optimizers.kronecker.soap import SOAP
    from cloche.train.optimizers.library import Library
    from cloche.train.optimizers.muon import Muon
    from cloche.train.optimizers.optimizer import Optimizer
    from cloche.train.optimizers.schedule import WSD, Constant, Cosine, InverseSquareRoot, Linear, Schedule
    from cloche.train.optimizers.stepper import Stepper
    from cloche.train.parents import begin_from
    from cloche.train.penalties.activation_l1 import ActivationL1
    from cloche.train.penalties.penalty import L1, L2, Penalised, Penalty
    from cloche.train.penalties.physics import Law, Oscillator, PhysicsResidual, derivatives
    from cloche.train.penalties.pruning import Pruning
    from cloche.train.penalties.squared_error import SquaredError
    from cloche.train.plan import Every, Milestones, StepPlan
    from cloche.train.prediction.forecasting import Forecast, forecast
    from cloche.train.prediction.process import ProcessMemory
    from cloche.train.pretrain import Trainer
    from cloche.train.prompts import first_text
    from cloche.train.recipe.limits import check_fits, check_model, check_recipe
    from cloche.train.recipe.recipe import Recipe, settings_called
    from cloche.train.replay import Replay, aside
    from cloche.train.source import batches_of

__all__ = [
    "EMA",
    "KFAC",
    "L1",
    "L2",
    "SGD",
    "SOAP",
    "WSD",
    "ActivationL1",
    "AdamW",
    "Alarm",
    "Average",
    "Callback",
    "Constant",
    "Cosine",
    "Denoising",
    "EarlyWarning",
    "Every",
    "Examples",
    "FeedbackAlignment",
    "FillInTheMiddle",
    "Forecast",
    "Group",
    "Health",
    "InverseSquareRoot",
    "LastToken",
    "Law",
    "Learned",
    "Library",
    "Linear",
    "Loop",
    "MaskedDiffusion",
    "Milestones",
    "MultiToken",
    "Muon",
    "NextToken",
    "NoiseScale",
    "Objective",
    "Optimizer",
    "Oscillator",
    "Penalised",
    "Penalty",
    "PhysicsResidual",
    "Prediction",
    "PrefixLM",
    "PrefixSpans",
    "ProcessMemory",
    "Pruning",
    "RMSprop",
    "Recipe",
    "Replay",
    "Schedule",
    "Score",
    "Setup",
    "Shampoo",
    "SpanCorruption",
    "SquaredError",
    "StepPlan",
    "Stepper",
    "Term",
    "TokenBatch",
    "Tolerance",
    "Trainer",
    "Windowed",
    "Wrapping",
    "aside",
    "batches_of",
    "begin_from",
    "best_precision",
    "calibrate",
    "check_fits",
    "check_model",
    "check_recipe",
    "derivatives",
    "evaluate",
    "first_text",
    "forecast",
    "gemm_rate",
    "gemm_rates",
    "is_finished",
    "parts_of",
    "prepare_data",
    "read_records",
    "require_same_tokens",
    "sample",
    "settings_called",
    "total_loss",
    "weights_hash",
]

__getattr__ = lazy(__name__)
