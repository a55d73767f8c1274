"""What the log of a run says of its steps, to compare a replay with."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cloche.runs import Run
from cloche.train import Replay, read_records

DIGITS = 1e-4  # relative difference that the rounding of the log may make


def logged_losses(run: Run) -> list[float]:
    """The loss of each step, from the first; infinite if it was not finite.

    From log/steps.jsonl, or, of a run without it, the means of metrics.jsonl for all of their steps.
    """
    losses = _each(run) or _means(run)
    if (ended := _ended(run)) is not None and losses:
        losses = [*losses[: ended - 1], *losses[-1:] * (ended - 1 - len(losses)), math.inf]
    return losses


def _ended(run: Run) -> int | None:
    """The step whose loss or gradient was not finite, which ended the run."""
    return next((int(e["step"]) for e in read_records(run, "events")[::-1] if e.get("kind") == "nonfinite"), None)


def _each(run: Run) -> list[float]:
    losses = list[float]()
    for record in read_records(run, "steps"):
        values = [math.inf if loss is None else float(loss) for loss in record["loss"]]
        begin = int(record["step"]) - len(values)
        if begin > len(losses):  # steps that were not logged
            return []
        losses[begin:] = values
    return losses


def _means(run: Run) -> list[float]:
    losses = list[float]()
    for record in read_records(run, "metrics"):
        if "loss" in record:
            loss = math.inf if record["loss"] is None else record["loss"]
            losses += [loss] * (int(record["step"]) - len(losses))
    return losses


def differences(replay: Replay, losses: Sequence[float], logged: Sequence[float]) -> str | None:
    """Why a replay without a change is not the run: what differs, in a sentence; None if nothing does."""
    run, begun = replay.run, replay.checkpoint.step
    where = f"Training {run.path} again from {replay.checkpoint.name} without a change"
    inexact = "so nothing can be proved: its files were changed, or this machine computes otherwise"
    if replay.differing:
        return f"{where} gives other weights at step {replay.differing[0]:,} than its log says, {inexact}."
    last, ended = begun + len(losses), _ended(run)
    if (last if math.isinf(losses[-1]) else None) != (ended if ended is not None and begun < ended <= last else None):
        return f"{where} ends at another step, {inexact}."
    exact = logged[begun:] if _each(run) else []
    for step, (one, other) in enumerate(zip(losses, exact, strict=False), begun + 1):
        if not math.isclose(one, other, rel_tol=DIGITS):
            return f"{where} gives another loss at step {step:,} than its log says, {inexact}."
    if not exact and not replay.compared:
        return (
            f"The log of {run.path} has neither losses nor hashes of weights after {replay.checkpoint.name}, so nothing can be "
            "proved."
        )
    return None
