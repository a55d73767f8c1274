"""Edits along a fitted curve: if a variable is laid out on it, a step along the curve moves the answer by the same step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cloche.drawing import Finding, Lines, Provenance, Series
from cloche.errors import InstrumentOption, SiteUnsuitable
from cloche.interp.manifolds.labelled import LabelledPoints, circles_of, labelled_points
from cloche.interp.manifolds.shapes import Circle
from cloche.interp.manifolds.variables import Contexts, Variable, one_site
from cloche.interp.subject import Subject
from cloche.model import Network, Site

By = Literal["circles", "turn", "means"]
ROWS = 128  # sequences per forward pass


@dataclass(frozen=True, eq=False)
class Move:
    """One prompt with what should follow it: the activation at `position` of `ids` [position] is moved by `delta` [width];
    `right` is the next token of the answer as it is, `wanted` that of the answer for the value a step on."""

    ids: Tensor
    position: int
    delta: Tensor
    right: int
    wanted: int


@torch.no_grad()
def manifold_intervention(
    subject: Subject,
    site: Site | str,
    variable: Variable,
    steps: Sequence[int] = (1, 2, 5),
    by: By = "circles",
    contexts: int = 512,
    seed: int = 0,
) -> Finding:
    """Moves activations along the mean curve of a variable, fitted to one half of the contexts, in the other half, and reads
    whether the model then gives the answer for a value that many steps on (for a circle in modular addition: Nanda et al.
    2023, 2301.05217).

    `by="circles"` adds the difference between two points of the circles that `manifold` finds, that of the context's value and
    that a step on. `by="turn"` does not know the value: it turns the activation in the planes of the circles by the angle of
    a step. `by="means"` adds the difference of the means of the two values, circles or not. A step is one
    value further in order, from the last value to the first if the circles are closed; otherwise contexts without such a
    value are left out. The answer is read where the tokens of the two answers first differ.

    Figures: `moved`, the share of contexts whose likeliest next token is that of the moved answer, for the first of `steps`;
    `stayed`, that of the unmoved answer; `accuracy` without the edit; the number of `circles`. The null moves each activation
    as far in a random direction. `data` has the figures by step. Raises InstrumentOption for a variable without answers.

    >>> import cloche
    >>> from cloche import GLU, LM, Attention, Block, Stack
    >>> from cloche.interp import TaskVariable, manifold_intervention
    >>> from cloche.tasks import ModularAdd
    >>> net = LM(259, 32, Stack(1, Block(Attention(4), GLU()))).build(seed=0)
    >>> glass = cloche.Glass(net, cloche.train_bpe(["a"], vocab=259))
    >>> finding = manifold_intervention(glass, "resid_post[0]", TaskVariable(ModularAdd(p=7)), steps=(0,), contexts=40)
    >>> finding.figures["moved"] == finding.figures["stayed"] == finding.figures["accuracy"]  # no step: nothing changes
    True
    """
    where = one_site(subject.net, site)
    if len(where.axes) != 3:
        raise SiteUnsuitable(f"{where} has one vector per head; name a site with one per token, such as resid_post[0].")
    if not steps:
        raise InstrumentOption("steps= names no step; give at least one, such as 1.")
    labelled, found = labelled_points(subject, site, variable, None, contexts, seed)
    if found.answer is None:
        raise InstrumentOption(
            f"{variable} does not know what should follow its texts, so a move cannot be scored; use a TaskVariable."
        )
    fitted, tested = _divided(labelled, seed)
    circles = circles_of(fitted, seed)
    rows, null_rows = [], []
    for step in steps:
        moves = list(_moves(fitted, tested, found, circles, step, by))
        if not moves:
            raise InstrumentOption(
                f"No answer differs where {variable} is {step} steps on, so nothing can be scored; give other steps=, or more "
                "contexts=."
            )
        rows.append(_scored(subject.net, where, moves))
        null_rows.append(_scored(subject.net, where, _elsewhere(moves, seed)))
    names = ("moved", "stayed", "accuracy")
    figures = dict(zip(names, rows[0], strict=True)) | {"circles": float(len(circles))}
    null = dict(zip(names, null_rows[0], strict=True)) | {"circles": 0.0}
    data = {
        "site": str(where),
        "variable": str(variable),
        "by": by,
        "periods": [circle.period for circle in circles],
        "steps": list(steps),
        "moved": [row[0] for row in rows],
        "stayed": [row[1] for row in rows],
        "null": [row[0] for row in null_rows],
        "tested": len(tested.index),
    }
    how = "by the difference of means" if by == "means" else f"along {len(circles)} circle{'s' * (len(circles) != 1)}"
    summary = (
        f"Moving {where} {how} by {steps[0]} of {variable} moves the answer by as much in {figures['moved']:.0%} of "
        f"{len(tested.index)} contexts not used to fit ({null['moved']:.0%} as far in a random direction); without it "
        f"{figures['accuracy']:.0%} are answered right."
    )
    about = Provenance("manifold-intervention", subject.checkpoint, seed=seed)
    return Finding(about, summary, figures, data, null=null, panels=[_lines(data)])


def _divided(labelled: LabelledPoints, seed: int) -> tuple[LabelledPoints, LabelledPoints]:
    """The points of each value in two halves: to fit, and to test."""
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labelled.codes), generator=draw)
    order = order[labelled.codes[order].argsort(stable=True)]  # by value, in random order within each
    sizes = torch.bincount(labelled.codes, minlength=len(labelled.values))
    within = torch.arange(len(order)) - (sizes.cumsum(0) - sizes)[labelled.codes[order]]
    return labelled.among(order[within % 2 == 0]), labelled.among(order[within % 2 == 1])


def _moves(
    fitted: LabelledPoints, tested: LabelledPoints, found: Contexts, circles: Sequence[Circle], step: int, by: By
) -> list[Move]:
    """The moves of all contexts that have the value a step on, and whose answer has another token then."""
    count = len(fitted.values)
    wraps = bool(circles) and all(circle.closed for circle in circles)
    goals = tested.codes + step
    goals = goals % count if wraps or not fitted.ordered else goals
    kept = [i for i, goal in enumerate(goals.tolist()) if 0 <= goal < count]
    curve = fitted.curve
    spacing = float((fitted.numbers[-1] - fitted.numbers[0]) / (count - 1))
    if by == "means":
        deltas = curve[goals.clamp(0, count - 1)] - curve[tested.codes]
    elif by == "circles":
        here = fitted.numbers[tested.codes]
        deltas = sum(
            (circle.at(here + step * spacing) - circle.at(here) for circle in circles), 0 * tested.points.double()
        )
    else:
        deltas = _turned(tested.points, circles, step * spacing)
    assert found.answer is not None
    moves = []
    for i in kept:
        point = tested.index[i]
        batch, row, position = found.places[point]
        right = list(found.answer(point, fitted.raw[int(tested.codes[i])]))
        wanted = list(found.answer(point, fitted.raw[int(goals[i])]))
        at = next((j for j, (a, b) in enumerate(zip(right, wanted, strict=False)) if a != b), None)
        if at is None and step == 0:
            at = 0
        if at is not None:
            ids = torch.cat([found.batches[batch][row], torch.tensor(right[:at], dtype=torch.long)])
            moves.append(Move(ids, position, deltas[i], right[at], wanted[at]))
    return moves


def _turned(points: Tensor, circles: Sequence[Circle], by: float) -> Tensor:
    """What turning points [n, width] in the planes of all circles adds to them, each by the angle of `by` in value."""
    if not circles:
        return torch.zeros_like(points, dtype=torch.float64)
    frames = torch.cat([circle.frame for circle in circles])  # [2 circles, width]
    coordinates = (points.double() - circles[0].centre) @ torch.linalg.pinv(frames)
    turned = torch.empty_like(coordinates)
    for i, circle in enumerate(circles):
        angle = 2 * math.pi * by / circle.period
        x, y = coordinates[:, 2 * i], coordinates[:, 2 * i + 1]
        turned[:, 2 * i] = math.cos(angle) * x - math.sin(angle) * y
        turned[:, 2 * i + 1] = math.sin(angle) * x + math.cos(angle) * y
    return (turned - coordinates) @ frames


def _elsewhere(moves: Sequence[Move], seed: int) -> list[Move]:
    """The same moves, as far, in random directions."""
    draw = torch.Generator().manual_seed(seed)
    made = []
    for move in moves:
        noise = torch.randn(move.delta.shape, generator=draw, dtype=torch.float64)
        delta = noise / noise.norm() * move.delta.norm()
        made.append(Move(move.ids, move.position, delta, move.right, move.wanted))
    return made


def _scored(net: Network, site: Site, moves: Sequence[Move]) -> tuple[float, float, float]:
    """Shares of moves after which the likeliest next token is the wanted one, the one that was right, and of prompts
    without an edit that are answered right."""
    device = net.embed.weight.device
    moved = stayed = right = 0
    by_length: dict[int, list[Move]] = {}
    for move in moves:
        by_length.setdefault(len(move.ids), []).append(move)
    for group in by_length.values():
        for start in range(0, len(group), ROWS):
            some = group[start : start + ROWS]
            ids = torch.stack([move.ids for move in some]).to(device)
            at = torch.tensor([move.position for move in some], device=device)
            deltas = torch.stack([move.delta for move in some]).to(device)

            def edit(value: Tensor, at: Tensor = at, deltas: Tensor = deltas) -> Tensor:
                value[torch.arange(len(at), device=at.device), at] += deltas.to(value.dtype)
                return value

            told = net.run(ids, edits=[site.apply(edit)]).logits[:, -1].argmax(-1).tolist()
            plain = net.run(ids).logits[:, -1].argmax(-1).tolist()
            moved += sum(token == move.wanted for token, move in zip(told, some, strict=True))
            stayed += sum(token == move.right for token, move in zip(told, some, strict=True))
            right += sum(token == move.right for token, move in zip(plain, some, strict=True))
    return moved / len(moves), stayed / len(moves), right / len(moves)


def _lines(data: dict[str, object]) -> Lines:
    steps: list[int] = data["steps"]  # type: ignore[assignment]
    series = (
        Series("moved by the step", tuple(data["moved"])),  # type: ignore[arg-type]
        Series("stayed", tuple(data["stayed"])),  # type: ignore[arg-type]
        Series("moved, random direction", tuple(data["null"]), control=True),  # type: ignore[arg-type]
    )
    return Lines("Answers after a move", tuple(map(str, steps)), series, "steps", form="percent", low=0.0, high=1.0)
