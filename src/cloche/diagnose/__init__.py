"""Why a run goes as it goes, or will; settings compared over seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.diagnose.comparing import compare
    from cloche.diagnose.differences import seeds_needed, verdict
    from cloche.diagnose.divergence import first_divergence
    from cloche.diagnose.doctor.examine import examine
    from cloche.diagnose.proving.batches import WithoutBatches, WithoutRows, WithoutUnusualRows
    from cloche.diagnose.proving.network import NominalInitialisation, SmallerBranches, SmallerScores, WithNorm
    from cloche.diagnose.proving.precision import FullPrecision
    from cloche.diagnose.proving.proof import Attempt, Proof, Retrained
    from cloche.diagnose.proving.rates import HeldRate, LowerRate, TrainAll, WarmUp, WithoutDecay
    from cloche.diagnose.proving.remedy import Remedy
    from cloche.diagnose.proving.replaying import prove_remedies
    from cloche.diagnose.proving.usual import usual_remedies
    from cloche.diagnose.responses import monitored
    from cloche.diagnose.rewinding import Rewound, prove, rewind
    from cloche.diagnose.variations import combinations_of, read_variations
    from cloche.diagnose.why.explain import explain

__all__ = [
    "Attempt",
    "FullPrecision",
    "HeldRate",
    "LowerRate",
    "NominalInitialisation",
    "Proof",
    "Remedy",
    "Retrained",
    "Rewound",
    "SmallerBranches",
    "SmallerScores",
    "TrainAll",
    "WarmUp",
    "WithNorm",
    "WithoutBatches",
    "WithoutDecay",
    "WithoutRows",
    "WithoutUnusualRows",
    "combinations_of",
    "compare",
    "examine",
    "explain",
    "first_divergence",
    "monitored",
    "prove",
    "prove_remedies",
    "read_variations",
    "rewind",
    "seeds_needed",
    "usual_remedies",
    "verdict",
]

__getattr__ = lazy(__name__)
