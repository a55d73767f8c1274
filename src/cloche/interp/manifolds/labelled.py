"""Points by the value of a variable: what the instruments of this package compute their curves from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cloche.errors import InstrumentOption, require_whole
from cloche.interp.manifolds.axes import DRAWS, principal
from cloche.interp.manifolds.curves import Halves, half_curves, mean_curve
from cloche.interp.manifolds.shapes import FEWEST, Circle, fit_circle, fit_circles
from cloche.interp.manifolds.variables import Contexts, Variable, one_site, points_of
from cloche.interp.subject import Subject
from cloche.model import Site

MOST_CONTEXTS = 1_000_000
MOST_VALUES = 128  # on a curve; of more, evenly many are taken


@dataclass(frozen=True, eq=False)
class LabelledPoints:
    """Points [point, width] with the code [point] of their value and the group of their text. `values` are in order, numbers
    if all of them are; `raw` has each as the variable gave it, and `index` the points' places among the contexts'."""

    points: Tensor
    codes: Tensor
    groups: Tensor
    values: list[Any]
    raw: list[Any]
    index: list[int]
    ordered: bool

    @cached_property
    def curve(self) -> Tensor:
        """Mean by value [value, width]."""
        return mean_curve(self.points, self.codes, len(self.values))

    @property
    def numbers(self) -> Tensor:
        """Values [value]; of categories, their place."""
        return torch.tensor(self.values if self.ordered else range(len(self.values)), dtype=torch.float64)

    @property
    def noise(self) -> float:
        """Root mean square distance between two points of one value."""
        sizes = torch.bincount(self.codes, minlength=len(self.values))
        squares = (self.points.double() - self.curve[self.codes]).square().sum()
        return math.sqrt(2 * float(squares) / max(1, int((sizes - 1).sum())))

    def halves(self, seed: int) -> Halves:
        return half_curves(self.points, self.codes, self.groups, seed=seed)

    def shuffled(self, seed: int) -> LabelledPoints:
        """The same points with their values in another order; within each text if a text has several."""
        draw = torch.Generator().manual_seed(seed)
        order = torch.rand(len(self.codes), generator=draw).argsort()
        codes = self.codes[order]
        if len(self.groups.unique()) < len(self.groups):
            home, order = self.groups.argsort(stable=True), order[self.groups[order].argsort(stable=True)]
            codes = torch.empty_like(self.codes).scatter_(0, home, self.codes[order])
        return replace(self, codes=codes)

    @cached_property
    def shuffled_curves(self) -> list[Tensor]:
        """Mean curves for shuffled values: what noise alone makes of them."""
        return [self.shuffled(i).curve for i in range(DRAWS)]

    @cached_property
    def shuffled_variance(self) -> Tensor:
        """Variance of the mean curve by principal axis for shuffled values, [shuffle, axis]."""
        return torch.stack([principal(curve).variance for curve in self.shuffled_curves])

    @cached_property
    def noisy_power(self) -> float:
        """The largest variance times score of a circle in the mean curves for shuffled values."""
        return max(power_of(curve, fit_circle(curve, self.numbers, draws=0)) for curve in self.shuffled_curves)

    def among(self, kept: Tensor) -> LabelledPoints:
        """Only some of the points, which must have every value."""
        index = [self.index[i] for i in kept.tolist()]
        return replace(self, points=self.points[kept], codes=self.codes[kept], groups=self.groups[kept], index=index)


def labelled_points(
    subject: Subject, site: Site | str, variable: Variable, windows: Iterable[Any] | None, count: int, seed: int
) -> tuple[LabelledPoints, Contexts]:
    """The activations at a site by the value of a variable, and the contexts that they are from.

    Values that fewer than two texts have are left out; of more than 128 numbers, evenly many are taken. Raises
    InstrumentOption for fewer than two values.
    """
    require_whole(1, MOST_CONTEXTS, contexts=count)
    where = one_site(subject.net, site)
    found = variable.contexts(subject, windows, count, seed).without_rare()
    numbers = _as_numbers(found.values)
    given = found.values if numbers is None else numbers
    values = sorted(set(given)) if numbers is not None else list(dict.fromkeys(given))
    if len(values) < 2:
        raise InstrumentOption(
            f"{variable} has {len(values)} values that occur in two texts or more, and a manifold needs two; give more "
            "contexts=, or another variable."
        )
    if numbers is not None and len(values) > MOST_VALUES:
        values = [values[i * (len(values) - 1) // (MOST_VALUES - 1)] for i in range(MOST_VALUES)]
    place = {value: i for i, value in enumerate(values)}
    index = [i for i, value in enumerate(given) if value in place]
    raw = {place[given[i]]: found.values[i] for i in index}
    codes, groups = torch.tensor([place[given[i]] for i in index]), torch.tensor([found.groups[i] for i in index])
    points = points_of(subject.net, found, where)[index]
    return LabelledPoints(
        points, codes, groups, values, [raw[i] for i in range(len(values))], index, numbers is not None
    ), found


def _as_numbers(values: Sequence[Any]) -> list[float] | None:
    """Values as numbers; None if one of them is not a number."""
    try:
        numbers = [float(value) for value in values if not isinstance(value, bool)]
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == len(values) and all(map(math.isfinite, numbers)) else None


def circles_of(labelled: LabelledPoints, seed: int) -> list[Circle]:
    """The circles of the mean curve that are above chance, largest first; none for categories. The order of the values must
    matter (a p-value of at most 5%), and the circle must be larger than any that noise makes in shuffled contexts."""
    if not labelled.ordered or len(labelled.values) < FEWEST:
        return []
    found = fit_circles(labelled.curve, labelled.numbers, seed=seed)
    return [circle for circle in found if power_of(labelled.curve, circle) > labelled.noisy_power]


def power_of(curve: Tensor, circle: Circle) -> float:
    """The variance of a curve that lies on a circle, times its roundness."""
    return circle.score * float(curve.var(0, correction=0).sum())


def best_circle(labelled: LabelledPoints, seed: int) -> list[Circle]:
    """The best circle, above chance or not, as a list; none for categories."""
    if not labelled.ordered or len(labelled.values) < FEWEST:
        return []
    return [fit_circle(labelled.curve, labelled.numbers, seed=seed)]
