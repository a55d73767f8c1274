"""Where a dictionary comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Provenance:
    """What a dictionary was trained on: the site and checkpoint its activations came from, and how many there were."""

    site: str | None = None
    checkpoint: str | None = None
    tokens: int = 0
