"""x = D a: dictionaries, sparse codes, and autoencoders that learn both. As useful on images and signals as on activations."""

from glasshouse.sparse.code import Code
from glasshouse.sparse.dictionary import Dictionary, Encoder, mean_max_cosine
from glasshouse.sparse.learn import Training, geometric_median, train_sae, training_course
from glasshouse.sparse.metrics import Report, report
from glasshouse.sparse.planted import Planted, isotropic_noise
from glasshouse.sparse.sae import Provenance, TopKSAE
from glasshouse.sparse.store import load_sae

__all__ = [
    "Code",
    "Dictionary",
    "Encoder",
    "Planted",
    "Provenance",
    "Report",
    "TopKSAE",
    "Training",
    "geometric_median",
    "isotropic_noise",
    "load_sae",
    "mean_max_cosine",
    "report",
    "train_sae",
    "training_course",
]
