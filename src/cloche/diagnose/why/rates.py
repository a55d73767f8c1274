"""How fast a run learned, decayed and fitted its text: from its recipe and logs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cloche.diagnose.history import History
from cloche.model import MuP
from cloche.train import Recipe

NEAR = 8  # steps before the loss diverged that the size of updates is taken of


@dataclass(frozen=True)
class Rates:
    """rate: the largest learning rate until the loss diverged, or at all, over the optimiser's default. warmup: updates before
    the peak. pace: size of updates relative to the weights, over the optimiser's limit, in the layer where it is largest, the
    median over the steps before the loss diverged, or over all; calm: the median over all layers and steps; rush: the largest
    of the first steps. decay: e-foldings by which weight decay alone shrank the weights. gap: nats by which held-out text was
    worse at the end than the batches, which was best at `best_step`."""

    rate: float
    warmup: int
    pace: float | None
    calm: float | None
    rush: float | None
    decay: float | None
    gap: float | None
    best_step: int | None


def rates_of(recipe: Recipe, history: History, diverged: int | None, norms: Mapping[str, float]) -> Rates:
    """norms: of the weights of each part at the first checkpoint, by which its updates are divided."""
    ratios = paces(recipe, history, norms)
    val_steps, val = history.metric("val_loss")
    _, gaps = history.metric("val_gap")
    best = int(np.nanargmin(val)) if len(val) and np.isfinite(val).any() else None
    pace = calm = rush = None
    if np.isfinite(ratios).any():
        near = ratios if diverged is None else ratios[max(0, diverged - NEAR) : diverged]
        near = near if np.isfinite(near).any() else ratios
        pace = float(np.nanmedian(largest(near)))
        calm = float(np.nanmedian(ratios))
        rush = float(np.nanmax(ratios[:NEAR])) if np.isfinite(ratios[:NEAR]).any() else None
    return Rates(
        peak_rate(recipe, history, diverged or history.steps) / default_rate(recipe),
        math.ceil(recipe.schedule.warmup * (recipe.run.steps or 0)),
        pace,
        calm,
        rush,
        decayed(recipe, history),
        float(gaps[-1]) if len(gaps) else None,
        int(val_steps[best]) if best is not None else None,
    )


def paces(recipe: Recipe, history: History, norms: Mapping[str, float]) -> np.ndarray:
    """Of each step and layer the norm of the update over that of the weights, over the optimiser's limit, [step, layer]; NaN
    for a step without an update."""
    limit = recipe.optimizer.limits().get("update_ratio", (0.0, recipe.optimizer.usual_update_ratio))[1]
    columns = [
        values / norms[place]
        for (quantity, place), values in history.series.items()
        if quantity == "update norm" and place.startswith("layer ") and norms.get(place)
    ]
    if columns:
        ratios = np.stack(columns, 1) / limit
    else:
        _, ratios = history.health.get("update_ratio", (None, np.zeros((0, 1))))
        ratios = ratios / limit
    return np.where(ratios > 0, ratios, np.nan)


def largest(ratios: np.ndarray) -> np.ndarray:
    """The largest of all layers at each step that has any."""
    return np.nanmax(ratios[np.isfinite(ratios).any(1)], 1)


def peak_rate(recipe: Recipe, history: History, steps: int) -> float:
    """The largest learning rate of the first steps: of the schedule, or as logged of any group, which may have a rate of its
    own. Under muP, which scales the rates of groups with the width, only of the schedule."""
    share, planned = recipe.schedule.rate, recipe.run.steps or max(1, steps)
    peak = recipe.optimizer.lr * max((share(step, planned) for step in range(steps)), default=1.0)
    if isinstance(recipe.initialisation, MuP):
        return peak
    names = {key for record in history.metrics for key in record if key.startswith("lr_")}
    logged = [rate for name in names for at, rate in zip(*history.metric(name), strict=True) if at <= steps]
    return max([peak, *(float(rate) for rate in logged if math.isfinite(rate))])


def default_rate(recipe: Recipe) -> float:
    """The learning rate that the class of a recipe's optimiser has by default."""
    optimizer = getattr(recipe.optimizer, "optimizer", recipe.optimizer)
    found = next((f.default for f in optimizer.__dataclass_fields__.values() if f.name == "lr"), None)
    return found if isinstance(found, float) and found > 0 else 1e-3


def decayed(recipe: Recipe, history: History) -> float | None:
    """The sum over all updates of rate x decay, of the group that decays most."""
    names = {key for record in history.metrics for key in record if key.startswith("shrink_")}
    found = [0.0] if history.metrics else []
    for name in names:
        steps, values = history.metric(name)
        spans = np.diff(steps, prepend=0)
        found.append(float(-(np.log(np.clip(values, 1e-6, 1.0)) * spans).sum()))
    if len(found) > 1:
        return max(found, default=None)
    rate = float(getattr(recipe.optimizer, "weight_decay", 0.0)) * recipe.optimizer.lr
    shares = [recipe.schedule.rate(step, recipe.run.steps or history.steps) for step in range(0, history.steps, 5)]
    return rate * 5 * sum(shares)
