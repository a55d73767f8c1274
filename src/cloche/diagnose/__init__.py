"""Why a run goes as it goes, or will; settings compared over seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.diagnose.comparing import compare
    from cloche.diagnose.differences import seeds_needed, verdict
    from cloche.diagnose.divergence import first_divergence
    from cloche.diagnose.doctor.examine import examine
    from cloche.diagnose.rewinding import Rewound, prove, rewind
    from cloche.diagnose.variations import combinations_of, read_variations
    from cloche.diagnose.why.explain import explain

__all__ = [
    "Rewound",
    "combinations_of",
    "compare",
    "examine",
    "explain",
    "first_divergence",
    "prove",
    "read_variations",
    "rewind",
    "seeds_needed",
    "verdict",
]

__getattr__ = lazy(__name__)
