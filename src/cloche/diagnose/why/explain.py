"""Why a run went as it went: the verdict as a finding."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from cloche.diagnose.proving.proof import Proof
from cloche.diagnose.proving.replaying import Progress, silent
from cloche.diagnose.why.causes import NONE, UNNAMED, Verdict, judge, values_of
from cloche.diagnose.why.documents import rows_of
from cloche.diagnose.why.facts import Facts, gather
from cloche.diagnose.why.proved import proof_of, record_of, said
from cloche.drawing import Finding, Lines, Panel, Provenance, Series, Table, number
from cloche.errors import ClocheError, RunDamaged
from cloche.runs import Run

LISTED = 5  # causes in the table
MOVED = 6  # quantities in the table
SURE = 0.3  # confidence
POINTS = 40  # of a curve that is drawn


def explain(run: Run | Path | str, prove: bool = False, on_progress: Progress = silent) -> Finding:
    """Says why a run went wrong: the step, what moved first and in which part, the batch of that step with its text, and the
    most likely cause, with its confidence and the evidence; or that no fault was found.

    Everything is measured: of its logs, of its first and last checkpoints, and of its packed text, which is read again.
    Nothing in the folder is executed or changed. prove: also trains the steps where it diverged again with remedies of that
    cause (see `prove_remedies`) and says which survive; only then is a fix proved. `figures` begins with the confidence; `null`
    has the confidence of no fault, and the thresholds of the evidence. Raises ClocheError for a run that was adopted or never
    trained: it has no course to explain.

    >>> from pathlib import Path
    >>> from cloche.diagnose import explain
    >>> from cloche.runs import Run
    >>> from cloche.train import Recipe, Trainer
    >>> _ = Path("text.txt").write_text("The cat sat on the mat. " * 400)
    >>> recipe = Recipe().with_set({"data.paths": ["text.txt"], "tokenizer.vocab": 270, "run.steps": 24, "run.length": 16})
    >>> recipe = recipe.with_set({"run.threads": 1, "run.precision": "fp32", "evaluate.samples": 0, "evaluate.tokens": 64})
    >>> recipe = recipe.with_set({"model.width": 24, "model.body.depth": 1, "run.batch": 2, "checkpoint.count": 1})
    >>> recipe = recipe.with_set({"initialisation": "Normal(std=4.0)"})
    >>> for record in Trainer.start(recipe, Run.create("run", recipe.to_toml())):
    ...     pass
    >>> explain("run").data["cause"]
    'initialisation'
    """
    run = run if isinstance(run, Run) else Run.open(run)
    if (adopted := run.adopted) is not None:
        raise RunDamaged(
            f"{run.path} was adopted from {adopted.get('source')}, so it has no log of its training; name a run that was "
            "trained by cloche."
        )
    facts = gather(run)
    if not facts.history.steps and facts.history.nonfinite is None:
        raise RunDamaged(f"{run.path} has no log of a trained step; train it, or restore its log folder.")
    verdicts, nothing = judge(facts)
    best = verdicts[0] if verdicts[0].confidence > nothing else None
    proof = None
    if prove and best is not None:
        proof = proof_of(run, facts, best.cause.name, step_of(facts, best), on_progress)
    return found(run, facts, verdicts, nothing, proof)


def found(run: Run, facts: Facts, verdicts: list[Verdict], nothing: float, proof: Proof | None) -> Finding:
    """The finding of what was measured and replayed."""
    best = verdicts[0] if verdicts[0].confidence > nothing else None
    figures = {"confidence": nothing if best is None else best.confidence}
    null = {"confidence": verdicts[0].confidence if best is None else nothing}
    for evidence in () if best is None else best.evidence:
        if evidence.value is not None and math.isfinite(evidence.value):
            figures[evidence.name] = evidence.value
            null[evidence.name] = evidence.threshold
    if proof is not None:
        figures["proved"], null["proved"] = float(len(proof.proved)), 0.0
    batch, notes = [], list(facts.notes)
    try:
        batch = rows_of(run, facts) if best is not None else []
    except ClocheError as error:  # such as a tokenizer that is missing
        notes.append(f"{str(error).rstrip('.')}.")
    data = {
        "cause": NONE if best is None else best.cause.name if best.confidence >= SURE else UNNAMED,
        "nearest": None if best is None else best.cause.name,
        "fix": best.cause.fix if best is not None and best.confidence >= SURE else "",
        "step": None if best is None else step_of(facts, best),
        "moved": None if facts.course.mover is None else _plain(vars(facts.course.mover)),
        "diverged": facts.course.diverged,
        "confidences": {NONE: nothing, **{each.cause.name: each.confidence for each in verdicts}},
        "evidence": [] if best is None else [_plain(each._asdict()) for each in best.evidence],
        "measured": _plain(values_of(facts)),
        "batch": batch,
        "bad": [] if facts.text is None else list(facts.text.bad),
        "proof": None if proof is None else record_of(proof),
        "course": _plain(vars(facts.course)),
        "notes": notes + _notes(facts),
    }
    last = run.checkpoints()[-1:]
    about = Provenance("why", facts.good.name if facts.good else last[0].name if last else "")
    panels = _panels(facts, best, verdicts, nothing, batch)
    panels = panels if proof is None or not proof.attempts else (*panels[:2], proof.table(), *panels[2:])
    return Finding(about, _summary(facts, best, nothing) + said(proof), figures, data, {}, null, panels)


def _notes(facts: Facts) -> list[str]:
    notes = []
    if facts.history.every > 1:
        notes.append(
            f"The run has no log of each step (log/steps.jsonl), only means of {facts.history.every} steps, so steps are that "
            "coarse."
        )
    if not facts.history.ended:
        notes.append(f"Training is not over: this is of its first {facts.history.steps:,} steps.")
    return notes


def _summary(facts: Facts, best: Verdict | None, nothing: float) -> str:
    course = facts.course
    if best is None:
        spikes = f", {course.spikes} sudden rises of the loss recovered" if course.spikes else ""
        return (
            f"No fault found (confidence {nothing:.0%}): the loss went from {number(course.first)} to {number(course.last)} "
            f"nats per token in {facts.history.steps:,} steps{spikes}."
        )
    at = step_of(facts, best)
    when = f" It went wrong {'from the first step on' if at == 1 else f'at step {at:,}'}{_first(facts)}."
    why = "; ".join(each.says for each in best.evidence)
    sure = "" if best.confidence >= SURE else "None of the known causes is likely; the nearest: "
    title = best.cause.title if sure else _capital(best.cause.title)
    fix = "" if sure else f" To try: {best.cause.fix}."
    return f"{sure}{title} (confidence {best.confidence:.0%}): {why}.{when}{fix}"


def step_of(facts: Facts, best: Verdict) -> int:
    """The step at which it went wrong: of the loss, or of the best validation where there is too little text; else the
    first."""
    if facts.onset is not None:
        return facts.onset
    return facts.rates.best_step or 1 if best.cause.name == "overfitting" else 1


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _first(facts: Facts) -> str:
    mover = facts.course.mover
    if mover is None:
        return ""
    where = f" of {mover.place}" if mover.place else ""
    return (
        f", where the {mover.quantity}{where} first left its usual range: {number(mover.value)} instead of "
        f"{number(mover.usual)}"
    )


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """As JSON: without nested values and numbers that are not finite."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, float | np.floating):
            found[key] = float(value) if math.isfinite(value) else None
        elif value is None or isinstance(value, int | str):
            found[key] = value
    return found


def _panels(
    facts: Facts, best: Verdict | None, verdicts: list[Verdict], nothing: float, batch: list[dict[str, Any]]
) -> tuple[Panel, ...]:
    causes = [(each.cause.name, each.cause.title, each.confidence) for each in verdicts[:LISTED]]
    causes = sorted([*causes, (NONE, "no fault", nothing)], key=lambda row: -row[2])
    panels: list[Panel] = [
        Table("Causes", ("cause", "what it is", "confidence"), tuple(causes), ("number", "number", "percent"))
    ]
    shown = best or verdicts[0]
    panels.append(
        Table(
            f"Evidence for: {shown.cause.title}",
            ("evidence", "measured", "threshold", "support"),
            tuple((each.says, each.value, each.threshold, each.support) for each in shown.evidence),
            ("number", "number", "number", "percent"),
        )
    )
    if best is not None and facts.course.movers:
        rows = [(m.step, m.quantity, m.place or "whole", m.value, m.usual) for m in facts.course.movers[:MOVED]]
        columns = ("step", "quantity", "part", "value", "usual")
        panels.append(Table("What left its usual range first", columns, tuple(rows)))
    if facts.history.steps:
        panels.append(_curve(facts))
    if batch:
        panels.append(
            Table(
                f"The batch of step {batch[0]['step']:,}",
                ("row", "nats per token", "document", "source", "text"),
                tuple((r["row"], r["nats"], r["document"], r["source"], r["text"]) for r in batch),
                note="nats per token: under the last good checkpoint.",
            )
        )
    return tuple(panels)


def _curve(facts: Facts) -> Lines:
    losses = facts.history.losses
    places = np.unique(np.linspace(0, len(losses) - 1, min(POINTS, len(losses))).round().astype(int))
    marks = [] if facts.onset is None else [(float(facts.onset), "went wrong")]
    if facts.course.diverged is not None and facts.course.diverged != facts.onset:
        marks.append((float(facts.course.diverged), "diverged"))
    values = tuple(float(losses[i]) if math.isfinite(losses[i]) else None for i in places)
    return Lines(
        "Loss",
        tuple(float(i + 1) for i in places),
        (Series("loss", values),),
        x_name="step",
        y_name="nats per token",
        marks=tuple(marks),
    )
