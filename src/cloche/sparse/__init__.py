"""x = D a: dictionaries, sparse codes, and autoencoders that learn both. For images and signals as well as activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.sparse.code import Code
    from cloche.sparse.dictionary import Dictionary, Encoder, mean_max_cosine
    from cloche.sparse.metrics import Report, Tally, report
    from cloche.sparse.pictures import atoms_of, picture
    from cloche.sparse.saes import (
        SAE,
        BatchTopK,
        FeatureActs,
        Gated,
        JumpReLU,
        Kind,
        Provenance,
        ReLU,
        TopK,
        Training,
        Wiring,
        geometric_median,
        iter_train_sae,
        load_sae,
        save_saelens,
        train_sae,
    )
    from cloche.sparse.truth import (
        Gap,
        Grade,
        Hierarchy,
        SyntheticFeatures,
        gap_report,
        gap_table,
        grade,
        isotropic_noise,
    )

__all__ = [
    "SAE",
    "BatchTopK",
    "Code",
    "Dictionary",
    "Encoder",
    "FeatureActs",
    "Gap",
    "Gated",
    "Grade",
    "Hierarchy",
    "JumpReLU",
    "Kind",
    "Provenance",
    "ReLU",
    "Report",
    "SyntheticFeatures",
    "Tally",
    "TopK",
    "Training",
    "Wiring",
    "atoms_of",
    "gap_report",
    "gap_table",
    "geometric_median",
    "grade",
    "isotropic_noise",
    "iter_train_sae",
    "load_sae",
    "mean_max_cosine",
    "picture",
    "report",
    "save_saelens",
    "train_sae",
]

__getattr__ = lazy(__name__)
