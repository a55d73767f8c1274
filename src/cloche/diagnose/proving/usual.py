"""The remedies of each cause."""

from __future__ import annotations

from cloche.diagnose.proving.batches import WithoutBatches, WithoutUnusualRows
from cloche.diagnose.proving.network import NominalInitialisation, SmallerBranches, SmallerScores, WithNorm
from cloche.diagnose.proving.precision import FullPrecision
from cloche.diagnose.proving.rates import HeldRate, LowerRate, TrainAll, WarmUp, WithoutDecay
from cloche.diagnose.proving.remedy import Remedy

FEW, MANY = 8, 40  # batches that are left out together


def usual_remedies(onset: int, cause: str | None = None) -> list[Remedy]:
    """The remedies of a cause by its name: "rate", "warmup", "norm", "initialisation", "batch", "poison", "precision",
    "branch", "attention", "decay" or "frozen"; none for "rate_low" and "overfitting", which no replay mends; of all causes
    without one.

    >>> from cloche.diagnose import usual_remedies
    >>> [remedy.phrase for remedy in usual_remedies(412, "batch")]
    ['without batch 412', 'without batches 412-419', 'without batches 412-451', 'without unusual rows']
    >>> len(usual_remedies(412))
    15
    """
    few, many = (WithoutBatches(tuple(range(onset, onset + count))) for count in (FEW, MANY))
    of: dict[str, list[Remedy]] = {
        "batch": [WithoutBatches((onset,)), few, many, WithoutUnusualRows()],
        "poison": [WithoutUnusualRows()],
        "rate": [LowerRate(0.5), LowerRate(0.1), HeldRate()],
        "warmup": [WarmUp()],
        "precision": [FullPrecision()],
        "decay": [WithoutDecay()],
        "frozen": [TrainAll()],
        "norm": [WithNorm()],
        "branch": [SmallerBranches(), NominalInitialisation()],
        "attention": [SmallerScores()],
        "initialisation": [NominalInitialisation(), SmallerBranches()],
    }
    of |= {"rate_low": [], "overfitting": []}
    every = list(dict.fromkeys(remedy for remedies in of.values() for remedy in remedies))
    return of.get(cause or "", every)
