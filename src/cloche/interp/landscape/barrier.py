"""The loss on the way from one model to another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from cloche.drawing import Finding, Lines, Panel, Provenance, Series, Table
from cloche.errors import CorpusEmpty, InstrumentOption
from cloche.interp.landscape.matching import match_weights, require_same_tree
from cloche.interp.landscape.paths import Path, Point, directions, on_curve, on_line, weights_of
from cloche.interp.subject import Subject, windows_of

FEWEST_POINTS = 3


def loss_barrier(
    subject: Subject,
    windows: Iterable[Any],
    other: Subject,
    training: Iterable[Any],
    match: bool = True,
    steps: int = 40,
    points: int = 11,
    seed: int = 0,
) -> Finding:
    """The loss barrier between a model and `other`, a checkpoint or run of the same tree.

    On `windows` (batches of ids [batch, position], or texts) the loss at `points` weights from one model to the other. The
    barrier is the largest difference between the loss there and the straight line between the losses of the two ends (Frankle
    et al. 2020, 1912.05671), in nats per token, at least 0: whether both are in one basin.

    match: the other's neurons, heads and, where the tree allows it, entries of the residual stream are first put into the order
    that brings its weights closest to the model's (`match_weights`, 2209.04836), which does not change what it computes.
    `barrier_unmatched` is that of the weights as they are. `barrier_curve` is that on a quadratic Bezier curve between the same
    two ends, trained for `steps` batches of `training` (ids, or texts; Garipov et al. 2018, 1802.10026); none for steps=0.
    `rise_random` is the control: how far the loss rises from the model on a random line on which every parameter moves as far
    as to the matched other; `rise` is that on the line to the other. Null: the model and itself, whose barrier is exactly 0.

    `arrays`: position [point]; line, unmatched, curve and random [point], losses. Raises InstrumentOption for models of
    different trees, without units to match, or for fewer than 3 points, and CorpusEmpty for texts without a second token.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Glass, Stack
    >>> from cloche.interp import loss_barrier
    >>> spec = LM(64, 32, Stack(1, Block(Attention(4), GLU(hidden=16))))
    >>> one, text = Glass(spec.build(seed=0)), torch.randint(64, (2, 16))
    >>> turned = Glass(spec.build(seed=0))  # the same function, its neurons in the opposite order
    >>> with torch.no_grad():
    ...     layer = turned.net.layers[0].map
    ...     _ = layer.inner.weight.copy_(layer.inner.weight.view(2, 16, 32).flip(1).flatten(0, 1))
    ...     _ = layer.outer.weight.copy_(layer.outer.weight.flip(1))
    >>> found = loss_barrier(one, [text], turned, [text], steps=0, points=3)
    >>> found.figures["barrier"], found.figures["distance"], found.figures["distance_unmatched"] > 0.1
    (0.0, 0.0, True)
    """
    a, b = subject.net, other.net
    require_same_tree(a, b)
    a.require_causal("loss_barrier")
    if points < FEWEST_POINTS or steps < 0:
        raise InstrumentOption(f"points={points} must be at least {FEWEST_POINTS}, and steps={steps} at least 0.")
    batches = _texts(subject, windows, "windows")
    text = _texts(subject, training, "training") if steps else []
    matched, orders = match_weights(a, b) if match else (b, {})
    path, positions = Path(a, batches), torch.linspace(0, 1, points).tolist()
    start, straight, end = weights_of(a), weights_of(b), weights_of(matched)
    losses = {"line": [path.loss(on_line(start, end, t)) for t in positions]}
    if match:
        losses["unmatched"] = [path.loss(on_line(start, straight, t)) for t in positions]
    if steps:
        bend = path.trained(start, end, text, steps, seed)
        losses["curve"] = [path.loss(on_curve(start, bend, end, t)) for t in positions]
    away = directions(start, end, seed)
    losses["random"] = [path.loss(on_line(start, away, t)) for t in positions]
    itself = [path.loss(on_line(start, start, t)) for t in (0.0, 0.5, 1.0)]
    figures = _figures(losses, positions) | {
        "distance": _distance(start, end),
        "distance_unmatched": _distance(start, straight),
        "moved_units": _share_moved(orders),
    }
    null = {"barrier": barrier_of(itself, [0.0, 0.5, 1.0]), "rise": max(itself) - itself[0], "distance": 0.0}
    data = {
        "other": other.checkpoint,
        "tokens": sum(ids[:, 1:].numel() for ids in batches),
        "steps": steps,
        "orders": {name: order.tolist() for name, order in orders.items()},
    }
    arrays = {"position": torch.tensor(positions)} | {name: torch.tensor(each) for name, each in losses.items()}
    about = Provenance("loss-barrier", subject.checkpoint, seed=seed)
    return Finding(about, _summary(data, figures), figures, data, arrays, null, _panels(losses, positions, orders))


def barrier_of(losses: Sequence[float], positions: Sequence[float]) -> float:
    """The most by which losses at positions from 0 to 1 are above the straight line between the first and the last."""
    first, last = losses[0], losses[-1]
    return max(loss - (first + t * (last - first)) for loss, t in zip(losses[:-1], positions, strict=False))


def _texts(subject: Subject, windows: Iterable[Any], name: str) -> list[Tensor]:
    found = [ids for ids in windows_of(subject, windows) if ids.shape[1] > 1]
    if not found:
        raise CorpusEmpty(f"{name}= has no text with a second token to predict; give more text.")
    return found


def _figures(losses: dict[str, list[float]], positions: list[float]) -> dict[str, float]:
    line = losses["line"]
    figures = {"barrier": barrier_of(line, positions)}
    for name in ("unmatched", "curve"):
        if name in losses:
            figures[f"barrier_{name}"] = barrier_of(losses[name], positions)
    rises = {"rise": max(line) - line[0], "rise_random": max(losses["random"]) - line[0]}
    return figures | rises | {"loss": line[0], "loss_other": line[-1]}


def _distance(a: Point, b: Point) -> float:
    """|b - a| / |a| over all parameters."""
    change = sum(float((y.double() - x.double()).square().sum()) for x, y in zip(a, b, strict=True))
    size = sum(float(x.double().square().sum()) for x in a)
    return (change / size) ** 0.5 if size else float(change > 0)


def _moved(order: Tensor) -> int:
    return int((order != torch.arange(len(order))).sum())


def _share_moved(orders: dict[str, Tensor]) -> float:
    return sum(map(_moved, orders.values())) / max(1, sum(map(len, orders.values())))


def _panels(losses: dict[str, list[float]], positions: list[float], orders: dict[str, Tensor]) -> list[Panel]:
    names = {
        "line": "straight line",
        "unmatched": "without matching",
        "curve": "trained curve",
        "random": "random direction",
    }
    series = tuple(Series(names[name], tuple(each), control=name == "random") for name, each in losses.items())
    panels: list[Panel] = [
        Lines(
            "Loss between the models",
            tuple(positions),
            series,
            "position (0: this model, 1: the other)",
            "nats per token",
        )
    ]
    if orders:
        rows = tuple((name, float(len(order)), float(_moved(order))) for name, order in orders.items())
        panels.append(
            Table("Units that changed places", ("units", "number", "moved"), rows, ("token", "count", "count"))
        )
    return panels


def _summary(data: dict[str, Any], figures: dict[str, float]) -> str:
    said = f"The loss barrier to {data['other'] or 'the other model'} is {figures['barrier']:.3g} nats per token"
    if "barrier_unmatched" in figures:
        said += f" ({figures['barrier_unmatched']:.3g} before {figures['moved_units']:.0%} of the units changed places)"
    if "barrier_curve" in figures:
        said += f", {figures['barrier_curve']:.3g} on a curve of {data['steps']} steps"
    return (
        f"{said}; the loss rises by {figures['rise']:.3g} on the way, and by {figures['rise_random']:.3g} as far in a random "
        f"direction ({data['tokens']:,} tokens)."
    )
