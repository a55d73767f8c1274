"""Sparse autoencoders of every kind, transcoders and crosscoders: one module, one step, one way to train."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.sparse.saes.exchange import save_saelens
    from cloche.sparse.saes.files import load_sae
    from cloche.sparse.saes.fit import Fit, Record, Training, fit_input, geometric_median
    from cloche.sparse.saes.kinds import Answer, BatchTopK, Gated, JumpReLU, Kind, ReLU, TopK
    from cloche.sparse.saes.module import SAE, Wiring
    from cloche.sparse.saes.provenance import Provenance
    from cloche.sparse.saes.train import Batch, further_course, train_sae, training_course

__all__ = [
    "SAE",
    "Answer",
    "Batch",
    "BatchTopK",
    "Fit",
    "Gated",
    "JumpReLU",
    "Kind",
    "Provenance",
    "ReLU",
    "Record",
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

__getattr__ = lazy(__name__)
