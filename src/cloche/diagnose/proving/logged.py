"""What the log of a run says of its steps, to compare a replay with."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cloche.diagnose.history import History, filled
from cloche.train import Replay

DIGITS = 1e-4  # relative difference that the rounding of the log may make


def logged_losses(history: History) -> list[float]:
    """The loss of each step, from the first; infinite if it was not finite."""
    losses: list[float] = filled(history.losses).tolist()
    if (ended := history.nonfinite) is not None and losses:
        losses = [*losses[: ended - 1], *losses[-1:] * (ended - 1 - len(losses)), math.inf]
    return losses


def differences(replay: Replay, losses: Sequence[float], history: History) -> str | None:
    """Why a replay without a change is not the run: what differs, in a sentence; None if nothing does."""
    run, begun = replay.run, replay.checkpoint.step
    where = f"Training {run.path} again from {replay.checkpoint.name} without a change"
    inexact = "so nothing can be proved: its files were changed, or this machine computes otherwise"
    if replay.differing:
        return f"{where} gives other weights at step {replay.differing[0]:,} than its log says, {inexact}."
    last, ended = begun + len(losses), history.nonfinite
    if (last if math.isinf(losses[-1]) else None) != (ended if ended is not None and begun < ended <= last else None):
        return f"{where} ends at another step, {inexact}."
    exact = history.losses[begun:last].tolist() if history.every == 1 else []
    # of a step that ended the run the gradient alone may not have been finite
    known = [(step, loss) for step, loss in enumerate(exact, begun + 1) if step != ended and not math.isnan(loss)]
    for step, loss in known:
        if not math.isclose(losses[step - begun - 1], loss, rel_tol=DIGITS):
            return f"{where} gives another loss at step {step:,} than its log says, {inexact}."
    if not known and not replay.compared:
        return (
            f"The log of {run.path} has neither losses nor hashes of weights after {replay.checkpoint.name}, so nothing can be "
            "proved."
        )
    return None
