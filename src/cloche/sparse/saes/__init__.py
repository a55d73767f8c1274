"""Sparse autoencoders of several kinds, transcoders and crosscoders: one module and one training step for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.sparse.saes.exchange import save_saelens
    from cloche.sparse.saes.files import load_sae
    from cloche.sparse.saes.fit import AuxLoss, Fit, Record, SaveState, Training, fit_input, geometric_median
    from cloche.sparse.saes.kinds import BatchTopK, FeatureActs, Gated, JumpReLU, Kind, ReLU, TopK
    from cloche.sparse.saes.module import SAE, Wiring
    from cloche.sparse.saes.provenance import Provenance
    from cloche.sparse.saes.train import Batch, continue_training, iter_train_sae, train_sae

__all__ = [
    "SAE",
    "AuxLoss",
    "Batch",
    "BatchTopK",
    "FeatureActs",
    "Fit",
    "Gated",
    "JumpReLU",
    "Kind",
    "Provenance",
    "ReLU",
    "Record",
    "SaveState",
    "TopK",
    "Training",
    "Wiring",
    "continue_training",
    "fit_input",
    "geometric_median",
    "iter_train_sae",
    "load_sae",
    "save_saelens",
    "train_sae",
]

__getattr__ = lazy(__name__)
