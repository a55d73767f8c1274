"""The panels and the sentence of a manifold finding."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cloche.drawing import Form, Lines, Panel, Scatter, Series, Table
from cloche.interp.manifolds.axes import Principal

SHOWN = 12  # axes in the panel of explained variance


def panels(
    data: dict[str, Any],
    figures: dict[str, float],
    seen: Tensor,
    variances: tuple[Principal, Tensor],
    angles: tuple[Tensor, Tensor] | None,
) -> list[Panel]:
    """The mean curve in up to three dimensions, explained variance, dimension by scale, angles and circles."""
    made: list[Panel] = [_scatter(data, seen)] if seen.shape[1] > 1 else []
    made.append(_variance(*variances))
    if data["scales"]:
        made.append(_dimension(data, figures))
    if angles is not None:
        made += [_angles(data, *angles), _circles(data)]
    return made


def _scatter(data: dict[str, Any], seen: Tensor) -> Scatter:
    axes = tuple(f"axis {i + 1}" for i in range(seen.shape[1]))
    values = tuple(data["values"]) if data["ordered"] else ()
    labels = tuple(f"{value:g}" if data["ordered"] else str(value) for value in data["values"])
    points = tuple(tuple(row) for row in seen.tolist())
    return Scatter(f"Mean activation at {data['site']} by value", points, axes, labels, values)


def _variance(pca: Principal, shuffled: Tensor) -> Lines:
    total = float(pca.variance.sum()) or 1.0
    chance = shuffled.amax(0) / total
    x = tuple(str(i + 1) for i in range(min(SHOWN, len(pca.variance))))
    series = (
        Series("mean curve", tuple(pca.explained.tolist()[:SHOWN])),
        Series(f"the most of {len(shuffled)} shuffles", tuple(chance.tolist()[:SHOWN]), control=True),
    )
    return Lines("Share of the curve's variance by principal axis", x, series, "axis", form="percent")


def _dimension(data: dict[str, Any], figures: dict[str, float]) -> Lines:
    scales = data["scales"]
    found = tuple(scale["dimension"] for scale in scales)
    low, high = (tuple(s["dimension"] + sign * 2 * s["error"] for s in scales) for sign in (-1, 1))
    series = (Series("GRIDE", found, low, high), Series("TwoNN", (figures["dimension"],) * len(scales), control=True))
    x = tuple(scale["distance"] for scale in scales)
    return Lines("Intrinsic dimension by scale", x, series, "distance", note="Two standard errors either way.")


def _angles(data: dict[str, Any], found: Tensor, expected: Tensor) -> Lines:
    series = (
        Series("mean activation", tuple(found.tolist())),
        Series("the circle", tuple(expected.tolist()), control=True),
    )
    title = f"Angle in the plane of period {data['circles'][0]['period']:.3g}, degrees"
    return Lines(title, tuple(data["values"]), series, "value", low=-180.0, high=180.0)


def _circles(data: dict[str, Any]) -> Table:
    rows = tuple(
        (c["period"], c["share"], c["roundness"], c["radius"], "yes" if c["closed"] else "no", c["p_value"])
        for c in data["circles"]
    )
    forms: tuple[Form, ...] = ("number", "percent", "percent", "number", "number", "number")
    columns = ("period", "share of the curve", "roundness", "radius", "closed", "p-value")
    return Table("Circles", columns, rows, forms)


def summary(data: dict[str, Any], figures: dict[str, float], null: dict[str, float]) -> str:
    """One sentence."""
    axes = int(figures["axes"])
    text = (
        f"{data['variable']} explains {figures['explained']:.1%} of the variance at {data['site']} ({null['explained']:.1%} "
        f"shuffled), its mean curve of {len(data['values'])} values has {axes} {'axis' if axes == 1 else 'axes'} above chance"
    )
    if not data["circles"]:
        return f"{text}, and {figures['purity']:.0%} of nearest points have the same value ({null['purity']:.0%} shuffled)."
    best = data["circles"][0]
    return (
        f"{text}, and its best {'circle' if best['closed'] else 'arc'}, of period {best['period']:.3g}, explains "
        f"{best['share']:.0%} of it at a roundness of {best['roundness']:.0%} (p = {best['p_value']:.2g}; score "
        f"{figures['circle']:.2f}, {null['circle']:.2f} shuffled)."
    )
