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

NO_REMEDY = "Nothing was replayed: no change of the steps that were trained mends this; train another run."


def proof_of(run: Run, facts: Facts, cause: str, step: int, on_progress: Progress) -> Proof:
    """Replays around the step at which it went wrong with the remedies of a cause; refused where it has none. Of a run that
    went wrong without diverging they say whose loss ends lower."""
    bad = () if facts.text is None else facts.text.bad
    remedies: list[Remedy] = usual_remedies(step, cause)
    if not remedies:
        return Proof(step, step, refused=NO_REMEDY)
    if cause == "batch" and bad:
        step = min(step, *bad)
        remedies = [WithoutBatches(bad), WithoutBatches((step,))]
    return prove_remedies(run, step, remedies, on_progress=on_progress)


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
