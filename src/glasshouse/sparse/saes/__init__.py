"""Sparse autoencoders whose number of active features varies: ReLU, Gated, JumpReLU and BatchTopK, each also nested."""

from glasshouse.sparse.saes.kinds import BatchTopK, Gated, JumpReLU, Kind, ReLU
from glasshouse.sparse.saes.module import SAE
from glasshouse.sparse.saes.train import learn_sae

__all__ = ["SAE", "BatchTopK", "Gated", "JumpReLU", "Kind", "ReLU", "learn_sae"]
