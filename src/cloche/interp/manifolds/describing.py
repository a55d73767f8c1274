"""The manifold of a variable: its mean curve at a site, what shape it has, and how many dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor

from cloche.drawing import Finding, Provenance
from cloche.errors import SignalsShape
from cloche.interp.manifolds.axes import (
    Principal,
    count_above,
    independent,
    participation_ratio,
    principal,
    trustworthiness,
    umap,
)
from cloche.interp.manifolds.curves import bend, explained_share
from cloche.interp.manifolds.dimension import gride, two_nn
from cloche.interp.manifolds.labelled import LabelledPoints, best_circle, circles_of, labelled_points
from cloche.interp.manifolds.neighbours import nearest_points, purity
from cloche.interp.manifolds.panels import panels, summary
from cloche.interp.manifolds.shapes import (
    Circle,
    fit_helix,
    gaussian_like,
    mixture_index,
    separability,
    vertices,
)
from cloche.interp.manifolds.variables import POSITIONS, Variable, one_site
from cloche.interp.subject import Subject
from cloche.model import Site

View = Literal["pca", "ica", "umap"]
NEIGHBOURS = 10
BEYOND = 4.0  # times the distance between points of one value, at which noise no longer counts
MOST_POINTS = 2_000  # whose neighbours are sought
AXES = 3  # of the scatter


@torch.no_grad()
def manifold(
    subject: Subject,
    site: Site | str,
    variable: Variable = POSITIONS,
    windows: Iterable[Any] | None = None,
    contexts: int = 512,
    periods: Sequence[float] = (2, 5, 10, 100),
    view: View = "pca",
    seed: int = 0,
) -> Finding:
    """The mean activation at `site` for each value of a variable: how much it explains, and the shape that it has.

    `variable`: `Positions()` of `windows` of text (batches of ids [batch, position], or texts), a `TaskVariable`, a
    `WordList`, or another Variable; about `contexts` texts are read. Figures:

    - explained: the share of the variance at the site between the values' means, from split halves; `purity` the share of the
      nearest points (10, or as many as the rarest value has) with the same value.
    - axes: principal axes of the mean curve above chance (shuffled values); `residual_axes` those that the circles leave;
      `participation` their participation ratio.
    - circle: share of the curve's variance times roundness of the best circle, its `period`, and `p_value` among permuted
      values; `circles`, how many are above chance and larger than noise makes them; `angle_error` of the means in its plane
      in degrees; `separability` (bits) and `mixture` (Engels et al. 2024) of the points there, and `helix` the adjusted share
      of line and circles of the given `periods` (2502.00873).
    - arc_over_chord (large for a closed curve) and turning, in degrees per step: of the mean curve, from split halves (noise
      lengthens arcs).
    - dimension: the intrinsic dimension of the points by TwoNN, which counts noise too; `dimension_above_noise`: by GRIDE, at
      the smallest scale of at least four times the distance between points of one value. It is left out if there is no
      such scale, or if the values' means are further apart than it. `data` has all scales.

    The null has the same figures for shuffled values; dimension, separability and mixture for Gaussian points of equal
    covariance and number. A variable whose values are not numbers is a category: it has no curve, and instead of the groups
    on circles and bends `vertices`, the share of its means that are vertices of their convex hull along the axes above
    chance. A low p-value says that order matters, not that the shape is a circle: see `circle` and `closed` in `data`.

    `view`: axes of the scatter; `trustworthiness` in `data` says how far they show what is near. `arrays`: curve [value,
    width], circles [circle, 2, width], centre [width]. Raises InstrumentOption for one value.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Glass, Learned, Stack
    >>> from cloche.interp import manifold
    >>> glass = Glass(LM(64, 32, Stack(1, Block(Attention(4), GLU())), position=Learned(32)).build(seed=0))
    >>> text = torch.randint(64, (8, 24), generator=torch.Generator().manual_seed(0))
    >>> finding = manifold(glass, "embed", windows=[text])
    >>> finding.arrays["curve"].shape, finding.figures["explained"] > 0.3 > finding.null["explained"]
    ((23, 32), True)
    """
    labelled, _ = labelled_points(subject, site, variable, windows, contexts, seed)
    above = circles_of(labelled, seed)
    circles = above or best_circle(labelled, seed)
    figures = _figures(labelled, circles, periods, seed)
    null = _null(labelled, circles, periods, seed)
    pca = principal(labelled.curve)
    seen, scales = _seen(labelled, pca, view, seed), _scales(labelled.points, seed)
    shuffled = labelled.shuffled_variance
    residual = principal(labelled.curve - _on(circles, labelled))
    axes = count_above(pca.variance, shuffled)
    figures |= _above_noise(labelled, scales) | {
        "axes": float(axes),
        "residual_axes": float(count_above(residual.variance, shuffled)),
        "participation": participation_ratio(pca.variance),
    }
    null |= {"axes": 0.0, "residual_axes": 0.0, "participation": fmean(map(participation_ratio, shuffled))}
    if circles:
        figures["circles"], null["circles"] = float(len(above)), 0.0
    corners, null_corners = _polytope(labelled, pca, axes, seed)
    figures, null = figures | corners, null | null_corners
    data = {
        "site": str(one_site(subject.net, site)),
        "variable": str(variable),
        "points": len(labelled.points),
        "values": labelled.values,
        "ordered": labelled.ordered,
        "explained_by_axis": pca.explained.tolist(),
        "circles": [_record(circle) for circle in circles],
        "scales": scales,
        "trustworthiness": trustworthiness(labelled.curve, seen, max(1, min(5, len(labelled.values) // 4))),
    }
    arrays = {
        "curve": labelled.curve,
        "circles": torch.stack([c.frame for c in circles]) if circles else torch.zeros(0, 2, 0),
    }
    arrays["centre"] = circles[0].centre if circles else labelled.curve.mean(0)
    drawn = panels(data, figures, seen, (pca, shuffled), _angles(circles, labelled))
    about = Provenance("manifold", subject.checkpoint, seed=seed)
    return Finding(about, summary(data, figures, null), figures, data, arrays, null, drawn)


def _on(circles: Sequence[Circle], labelled: LabelledPoints) -> Tensor:
    """Where the circles put each value, less the centre, [value, width]; 0 without circles."""
    return sum((circle.at(labelled.numbers) for circle in circles), torch.zeros(()))


def _chosen(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:MOST_POINTS]


def _some(points: Tensor, seed: int) -> Tensor:
    return points[_chosen(len(points), seed)]


def _figures(
    labelled: LabelledPoints, circles: Sequence[Circle], periods: Sequence[float], seed: int
) -> dict[str, float]:
    """Figures that depend on the values, and those of the points alone."""
    halves = labelled.halves(seed)
    figures = {"explained": explained_share(labelled.points, labelled.codes, halves)}
    if circles:
        best = circles[0]
        bent = bend(halves)
        figures |= {"circle": best.score, "period": best.period, "p_value": best.p_value}
        figures |= {"angle_error": _angle_error(best, labelled), "arc_over_chord": bent.ratio, "turning": bent.turning}
        figures |= _helix(labelled, periods)
    figures |= _cloud(labelled.points, circles, seed)
    return figures | _near(labelled, seed)


def _null(labelled: LabelledPoints, circles: Sequence[Circle], periods: Sequence[float], seed: int) -> dict[str, float]:
    """The figures for shuffled values, and those of Gaussian points."""
    other = labelled.shuffled(seed)
    found = _figures(other, best_circle(other, seed), periods, seed)
    return found | _cloud(gaussian_like(labelled.points, seed), circles, seed)


def _helix(labelled: LabelledPoints, periods: Sequence[float]) -> dict[str, float]:
    with suppress(SignalsShape):  # too few values for so many periods
        return {"helix": fit_helix(labelled.curve, labelled.numbers, periods).share}
    return {}


def _cloud(points: Tensor, circles: Sequence[Circle], seed: int) -> dict[str, float]:
    """Figures of a cloud of points, whatever their values: dimension, and those of the first circle's plane."""
    some = _some(points, seed)
    figures = {}
    with suppress(SignalsShape):  # too few different points
        figures["dimension"] = two_nn(some)
    if circles:
        flat = (some.double() - circles[0].centre) @ circles[0].plane.T
        figures |= {"separability": separability(flat), "mixture": mixture_index(flat)}
    return figures


def _near(labelled: LabelledPoints, seed: int) -> dict[str, float]:
    """Purity of the nearest points."""
    some = labelled.among(_chosen(len(labelled.points), seed))
    fewest = int(torch.bincount(some.codes, minlength=len(labelled.values)).min()) - 1  # others of the same value
    near = nearest_points(some.points, max(1, min(NEIGHBOURS, fewest)))[1]
    return {"purity": purity(near, some.codes)}


def _scales(points: Tensor, seed: int) -> list[dict[str, float]]:
    with suppress(SignalsShape):
        some = _some(points, seed)
        return [vars(scale) for scale in gride(some, largest=len(some) // 4)]
    return []


def _above_noise(labelled: LabelledPoints, scales: Sequence[dict[str, float]]) -> dict[str, float]:
    """The dimension at the smallest scale above the noise; left out if there is no such scale, or if the values are so far
    apart that their points form clusters."""
    scale = BEYOND * labelled.noise
    apart = float(nearest_points(labelled.curve, 1)[0].median()) > scale
    found = [each["dimension"] for each in scales if each["distance"] > scale]
    return {"dimension_above_noise": found[0]} if found and not apart else {}


def _polytope(
    labelled: LabelledPoints, pca: Principal, axes: int, seed: int
) -> tuple[dict[str, float], dict[str, float]]:
    """The share of categories whose means are vertices along the axes above chance, and that of Gaussian points."""
    if labelled.ordered or not axes:
        return {}, {}
    means = pca.scores(labelled.curve, axes)
    found, null = (float(vertices(rows).double().mean()) for rows in (means, gaussian_like(means, seed)))
    return {"vertices": found}, {"vertices": null}


def _angle_error(circle: Circle, labelled: LabelledPoints) -> float:
    """Mean distance in degrees of the means' angles from those that the circle gives them."""
    expected = 360 * labelled.numbers / circle.period
    away = (circle.angles(labelled.curve) - expected + 180) % 360 - 180
    return float(away.abs().mean())


def _angles(circles: Sequence[Circle], labelled: LabelledPoints) -> tuple[Tensor, Tensor] | None:
    """Angles of the means in the first circle's plane, and those expected, in degrees."""
    if not circles:
        return None
    return circles[0].angles(labelled.curve), (360 * labelled.numbers / circles[0].period + 180) % 360 - 180


def _seen(labelled: LabelledPoints, pca: Principal, view: View, seed: int) -> Tensor:
    """Coordinates [value, up to 3] of the mean curve."""
    count = min(AXES, len(pca.variance))
    if view == "umap":
        return umap(labelled.curve, count, seed=seed)
    if view == "ica":
        made = independent(labelled.points, count, seed)
        return (labelled.curve - made.mean) @ made.unmixing.T
    return pca.scores(labelled.curve, count)


def _record(circle: Circle) -> dict[str, Any]:
    names = ("period", "share", "roundness", "radius", "closed", "p_value")
    return {name: getattr(circle, name) for name in names}
