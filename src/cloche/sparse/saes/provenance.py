"""Origin of a dictionary."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Provenance:
    """What a dictionary was trained on: site and checkpoint of its activations, and their number.

    >>> from cloche.sparse.saes import SAE, Provenance
    >>> SAE(4, 8, l0=1, trained_on=Provenance("resid_post[3]", "step-000500", 1_000_000)).trained_on.site
    'resid_post[3]'
    """

    site: str | None = None
    checkpoint: str | None = None
    tokens: int = 0
