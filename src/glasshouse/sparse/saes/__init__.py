"""Sparse autoencoders of every kind, transcoders and crosscoders: one module, one step, one way to train."""

from glasshouse.sparse.saes.exchange import save_saelens
from glasshouse.sparse.saes.files import load_sae
from glasshouse.sparse.saes.fit import Fit, Training, fit_input, geometric_median
from glasshouse.sparse.saes.kinds import KINDS, BatchTopK, Gated, JumpReLU, Kind, ReLU, TopK
from glasshouse.sparse.saes.module import SAE, Wiring
from glasshouse.sparse.saes.provenance import Provenance
from glasshouse.sparse.saes.train import Batch, further_course, train_sae, training_course

__all__ = [
    "KINDS",
    "SAE",
    "Batch",
    "BatchTopK",
    "Fit",
    "Gated",
    "JumpReLU",
    "Kind",
    "Provenance",
    "ReLU",
    "TopK",
    "Training",
    "Wiring",
    "fit_input",
    "further_course",
    "geometric_median",
    "load_sae",
    "save_saelens",
    "train_sae",
    "training_course",
]
