"""x = D a: dictionaries, sparse codes, and autoencoders that learn both. As useful on images and signals as on activations."""

from glasshouse.sparse.code import Code
from glasshouse.sparse.dictionary import Dictionary, Encoder, mean_max_cosine
from glasshouse.sparse.gap import Gap, gap_report
from glasshouse.sparse.grade import Grade, grade
from glasshouse.sparse.learn import Training, geometric_median, train_sae, training_course
from glasshouse.sparse.metrics import Report, report
from glasshouse.sparse.planted import Planted, isotropic_noise
from glasshouse.sparse.sae import Autoencoder, Provenance, TopKSAE
from glasshouse.sparse.saes import SAE, BatchTopK, Gated, JumpReLU, ReLU, learn_sae
from glasshouse.sparse.store import load_sae

__all__ = [
    "SAE",
    "Autoencoder",
    "BatchTopK",
    "Code",
    "Dictionary",
    "Encoder",
    "Gap",
    "Gated",
    "Grade",
    "JumpReLU",
    "Planted",
    "Provenance",
    "ReLU",
    "Report",
    "TopKSAE",
    "Training",
    "gap_report",
    "geometric_median",
    "grade",
    "isotropic_noise",
    "learn_sae",
    "load_sae",
    "mean_max_cosine",
    "report",
    "train_sae",
    "training_course",
]
