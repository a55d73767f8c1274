"""What replays of a failed run show of the cause that was named."""

from __future__ import annotations

from typing import Any

from cloche.diagnose.proving.batches import WithoutBatches
from cloche.diagnose.proving.proof import Proof
from cloche.diagnose.proving.remedy import Remedy
from cloche.diagnose.proving.replaying import Progress, prove_remedies
from cloche.diagnose.proving.usual import usual_remedies
from cloche.diagnose.why.facts import Facts
from cloche.runs import Run

STAYED = (
    "Nothing was replayed: no loss of this run stayed above 1.5 times its usual for 20 steps, so it did not diverge."
)


def proof_of(run: Run, facts: Facts, cause: str, on_progress: Progress) -> Proof:
    """Replays with the remedies of a cause; refused for a run that did not diverge, of which nothing can be proved."""
    onset, bad = facts.onset, () if facts.text is None else facts.text.bad
    if facts.course.diverged is None or onset is None:
        return Proof(onset or 0, 0, refused=STAYED)
    remedies: list[Remedy] = usual_remedies(onset, cause)
    if cause == "batch" and bad:
        onset = min(onset, *bad)
        remedies = [WithoutBatches(bad), WithoutBatches((onset,))]
    return prove_remedies(run, onset, remedies, on_progress=on_progress)


def said(proof: Proof | None) -> str:
    """For the summary."""
    if proof is None:
        return ""
    fixes = ", ".join(record_of(proof)["proved"])
    return f" {proof.sentence} " + (f"Proved to survive: {fixes}." if fixes else "No fix is proved.")


def record_of(proof: Proof) -> dict[str, Any]:
    """As JSON."""
    proved = [each.remedy.phrase for each in proof.proved if each.remedy is not None]
    return {"says": proof.sentence, "proved": proved, "refused": proof.refused}
