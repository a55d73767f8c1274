"""Circles and helices fitted to a curve, whether a plane's two coordinates separate, and the corners of a hull."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cloche.errors import SignalsShape

DRAWS = 199  # permutations of the values
FEWEST = 5  # different values, below which any points lie on a circle
TIE = 1e-6  # scores that differ by less are equal: those of lines are all 0
ROTATIONS, BINS = 100, 10
EPSILON = 0.1  # of the mixture index, in root mean squares
OFFSETS = 101
ROUNDS = 500  # of Frank and Wolfe

# ---- circles


@dataclass(frozen=True, eq=False)
class Circle:
    """A circle x(v) = centre + cosine cos(2 pi v / period) + sine sin(2 pi v / period), vectors [dim].

    `share` of the variance of the points that it explains; `roundness` 2 |cosine x sine| / (|cosine|^2 + |sine|^2), 1 for a
    circle and 0 for a line; `closed` whether the values are an integral number of periods; `p_value` of share times roundness
    among circles found for permuted values.
    """

    period: float
    centre: Tensor
    cosine: Tensor
    sine: Tensor
    share: float
    roundness: float
    closed: bool
    p_value: float = 1.0

    @property
    def score(self) -> float:
        return self.share * self.roundness

    @property
    def frame(self) -> Tensor:
        """The cosine's and the sine's vector, [2, dim]."""
        return torch.stack([self.cosine, self.sine])

    @property
    def plane(self) -> Tensor:
        """Orthonormal rows [2, dim]: the nearest to cosine and sine, so that angles in it run from 0 at value 0."""
        left, _, right = torch.linalg.svd(self.frame, full_matrices=False)
        return left @ right

    @property
    def radius(self) -> float:
        return math.sqrt(float(self.frame.square().sum()) / 2)

    def at(self, values: Tensor) -> Tensor:
        """Points [n, dim] of the circle at values [n], less the centre."""
        angle = 2 * math.pi * values.double() / self.period
        return torch.stack([angle.cos(), angle.sin()], 1) @ self.frame

    def angles(self, points: Tensor) -> Tensor:
        """Angle in degrees [n], from -180 to 180, of points [n, dim] in the plane about the centre."""
        x, y = ((points.double() - self.centre) @ self.plane.T).T
        return torch.atan2(y, x).rad2deg()


@dataclass(frozen=True, eq=False)
class _Waves:
    """Cosine and sine of the values at each frequency that is tried, and the maps to their coefficients."""

    periods: Tensor  # [frequency]
    closed: list[bool]
    norms: Tensor  # [frequency, 2, 2], products of the waves, centred
    inverse: Tensor  # [frequency, 2, value]
    keep: Tensor  # [value, value], the projection that takes out what circles found before explain

    @classmethod
    def of(cls, values: Tensor, period: float | None, known: Sequence[float] = ()) -> _Waves:
        values = values.double()
        count = len(values)
        if count < FEWEST:
            raise SignalsShape(
                f"A circle is fitted to {FEWEST} different values or more, and there are {count}; give more."
            )
        span = (
            float(values.max() - values.min()) * count / (count - 1)
        )  # a step after the last value is the first again
        halves = torch.arange(
            1, count - 1, dtype=torch.float64
        )  # twice the number of turns, below half the sampling rate
        periods = 2 * span / halves if period is None else torch.tensor([float(period)], dtype=torch.float64)
        if known:
            periods = 2 * span / halves[1::2]
        free = [p for p in periods.tolist() if not any(math.isclose(p, other) for other in known)]
        periods = torch.tensor(free, dtype=torch.float64)
        keep = _complement([_wave(other, values) for other in known], count).to(values.device)
        waves = torch.stack([keep @ _wave(each, values) for each in periods.tolist()])
        turns = [span / each for each in periods.tolist()]
        closed = [abs(turn - round(turn)) < 1e-6 for turn in turns]
        return cls(periods, closed, waves.mT @ waves, torch.linalg.pinv(waves, rtol=1e-6), keep)

    def fits(self, gram: Tensor) -> tuple[Tensor, Tensor]:
        """Share explained and roundness [frequency] of points with the Gram matrix [value, value]; what `keep` takes out does
        not count."""
        count = len(self.inverse)
        half = (self.inverse.flatten(0, 1) @ gram).view(count, 2, -1)  # one product; batches of small ones are slow
        inner = (half[:, :, None] * self.inverse[:, None]).sum(3)  # [frequency, 2, 2], of cosine's and sine's vector
        share = (inner * self.norms).sum((1, 2)) / (self.keep * gram).sum().clamp(min=1e-300)
        area = (inner[:, 0, 0] * inner[:, 1, 1] - inner[:, 0, 1] ** 2).clamp(min=0).sqrt()
        return share, 2 * area / (inner[:, 0, 0] + inner[:, 1, 1]).clamp(min=1e-300)


def fit_circle(
    points: Tensor,
    values: Tensor,
    period: float | None = None,
    known: Sequence[float] = (),
    draws: int = DRAWS,
    seed: int = 0,
) -> Circle:
    """The circle on which points [n, dim] run with different values [n]: cosine and sine of the values are regressed on, and
    the period with the largest share explained times roundness is taken, of those that turn 1/2, 1, 3/2, ... times over the
    values, or the one that is given. The p-value compares with the best circle of permuted values. What circles with the
    periods `known` explain is taken out first, of permuted points as well, and only whole numbers of turns are tried then.
    Raises SignalsShape for fewer than five values.
    """
    waves = _Waves.of(values, period, known)
    centre = points.double().mean(0)
    flat = points.double() - centre
    gram = waves.keep @ flat @ flat.T @ waves.keep
    share, roundness = waves.fits(gram)
    best = int((share * roundness).argmax())
    draw = torch.Generator().manual_seed(seed)
    beaten = 0
    for _ in range(draws):
        order = torch.randperm(len(flat), generator=draw).to(gram.device)
        beaten += (
            float(torch.mul(*waves.fits(gram[order][:, order])).max()) >= float(share[best] * roundness[best]) - TIE
        )
    cosine, sine = waves.inverse[best] @ flat
    turn = 2 * math.pi * values.double() / float(waves.periods[best])
    centre = centre - turn.cos().mean() * cosine - turn.sin().mean() * sine
    figures = float(share[best]), float(roundness[best]), waves.closed[best], (1 + beaten) / (1 + draws)
    return Circle(float(waves.periods[best]), centre, cosine, sine, *figures)


def fit_circles(points: Tensor, values: Tensor, most: int = 6, level: float = 0.05, seed: int = 0) -> list[Circle]:
    """Circles one after another, each fitted to what the others leave, while their p-value is at most `level`. After a closed
    circle only closed ones are sought, which have nothing in common with it; after an open one, none. The shares are of the
    whole variance."""
    flat = points.double() - points.double().mean(0)
    total = float(flat.square().sum())
    found: list[Circle] = []
    for _ in range(min(most, (len(values) - 3) // 2)):
        known = [circle.period for circle in found]
        left = _complement([_wave(period, values) for period in known], len(values)).to(flat.device) @ flat
        if float(left.square().sum()) <= 1e-9 * total:
            break
        circle = fit_circle(flat, values, known=known, seed=seed)
        if circle.p_value > level:
            break
        found.append(circle)
        if not circle.closed:
            break
    if not found:
        return []
    waves = torch.cat([_wave(circle.period, values) for circle in found], 1)
    design = torch.cat([torch.ones(len(values), 1, dtype=torch.float64, device=waves.device), waves], 1)
    vectors = torch.linalg.lstsq(design, points.double()).solution  # [1 + 2 circles, dim]
    shares = [float((wave @ pair).square().sum()) / total for wave, pair in _pairs(waves, vectors[1:])]
    return [
        Circle(
            c.period, vectors[0], vectors[1 + 2 * i], vectors[2 + 2 * i], shares[i], c.roundness, c.closed, c.p_value
        )
        for i, c in enumerate(found)
    ]


def _complement(waves: Sequence[Tensor], count: int) -> Tensor:
    """The projection [value, value] onto what is orthogonal to a constant and to each of `waves` [value, 2]."""
    constant = torch.ones(count, 1, dtype=torch.float64, device=waves[0].device if waves else None)
    left, singular, _ = torch.linalg.svd(torch.cat([constant, *waves], 1), full_matrices=False)
    basis = left[:, singular > 1e-6 * singular[0]]
    return torch.eye(count, dtype=torch.float64, device=basis.device) - basis @ basis.T


def _wave(period: float, values: Tensor) -> Tensor:
    angle = 2 * math.pi * values.double() / period
    return torch.stack([angle.cos(), angle.sin()], 1)


def _pairs(waves: Tensor, vectors: Tensor) -> list[tuple[Tensor, Tensor]]:
    centred = waves - waves.mean(0)
    return [(centred[:, i : i + 2], vectors[i : i + 2]) for i in range(0, waves.shape[1], 2)]


# ---- helices


@dataclass(frozen=True)
class Helix:
    """Share of the variance of the points that value, cosines and sines explain together, adjusted for their number, and
    the share lost without each: "line", and each period."""

    share: float
    lost: dict[str, float]


def fit_helix(points: Tensor, values: Tensor, periods: Sequence[float] = (2, 5, 10, 100)) -> Helix:
    """Points [n, dim] regressed on the value a, cos(2 pi a / T) and sin(2 pi a / T) for every period T (Kantamneni and
    Tegmark 2025, 2502.00873), with the share adjusted as 1 - (1 - R^2) (n - 1) / (n - terms - 1). Raises SignalsShape if there
    are no more values than terms."""
    line = values.double()[:, None]
    terms = {"line": line - line.mean()} | {f"{period:g}": _wave(period, values) for period in periods}
    share = _adjusted(points, list(terms.values()))
    lost = {name: share - _adjusted(points, [t for other, t in terms.items() if other != name]) for name in terms}
    return Helix(share, lost)


def _adjusted(points: Tensor, terms: Sequence[Tensor]) -> float:
    flat = points.double() - points.double().mean(0)
    if not terms:
        return 0.0
    design = torch.cat(list(terms), 1)
    design = design - design.mean(0)
    left, singular, _ = torch.linalg.svd(design, full_matrices=False)
    basis = left[:, singular > 1e-8 * singular[0]]  # the sine of period 2 vanishes on integers
    n, count = len(flat), basis.shape[1]
    if n <= count + 1:
        raise SignalsShape(
            f"A helix of {count} terms fits {n} points whatever they are; give more values, or fewer periods."
        )
    left_out = 1 - float((basis.T @ flat).square().sum()) / max(float(flat.square().sum()), 1e-300)
    return 1 - left_out * (n - 1) / (n - count - 1)


# ---- two coordinates: one thing, or two


def separability(points: Tensor, rotations: int = ROTATIONS, bins: int = BINS) -> float:
    """Least mutual information in bits between the coordinates of points [n, 2] over rotations (Engels et al. 2024,
    2405.14860): 0 on average where two independent features lie in the plane, above 1 for a circle. Each coordinate has
    `bins` equal bins over its range; few points raise it, so compare with `gaussian_like` points."""
    coordinates = _turned(points, rotations)  # [rotation, n, 2]
    low, high = coordinates.amin(1, keepdim=True), coordinates.amax(1, keepdim=True)
    cell = ((coordinates - low) / (high - low).clamp(min=1e-300) * bins).long().clamp(max=bins - 1)
    index = (cell[..., 0] * bins + cell[..., 1]) + torch.arange(rotations, device=cell.device)[:, None] * bins**2
    joint = torch.bincount(index.flatten(), minlength=rotations * bins**2).double().view(rotations, bins, bins)
    joint = joint / len(points)
    alone = joint.sum(2, keepdim=True) * joint.sum(1, keepdim=True)
    information = torch.where(joint > 0, joint * (joint / alone.clamp(min=1e-300)).log2(), 0).sum((1, 2))
    return float(information.min())


def mixture_index(points: Tensor, epsilon: float = EPSILON, rotations: int = ROTATIONS) -> float:
    """The largest share of points [n, 2] whose coordinate along some direction is within `epsilon` root mean squares of some
    offset (Engels et al. 2024): near 1 for a feature that is mostly off, .08 for a Gaussian. Directions and 101 offsets over
    each range are tried on a grid."""
    along = _turned(points, 2 * rotations)[..., 0]  # [rotation, n], both axes of each
    best = 0.0
    for row in along.sort(1).values:
        offsets = torch.linspace(float(row[0]), float(row[-1]), OFFSETS, dtype=torch.float64, device=row.device)
        size = (row.var(correction=0) + (row.mean() - offsets).square()).sqrt() * epsilon
        inside = torch.searchsorted(row, offsets + size) - torch.searchsorted(row, offsets - size, right=True)
        best = max(best, float(inside.max()) / len(row))
    return best


def _turned(points: Tensor, rotations: int) -> Tensor:
    """Points [n, 2] in `rotations` frames over a quarter turn: [rotation, n, 2]; over a half turn, the first coordinate
    is that of every direction."""
    angle = torch.arange(rotations, dtype=torch.float64, device=points.device) * (math.pi / 2 / ROTATIONS)
    turn = torch.stack([torch.stack([angle.cos(), angle.sin()], 1), torch.stack([-angle.sin(), angle.cos()], 1)], 2)
    return (points.double() - points.double().mean(0)) @ turn


def gaussian_like(points: Tensor, seed: int = 0) -> Tensor:
    """As many Gaussian points with the same mean and covariance as points [n, dim]: the null without any shape."""
    points = points.double()
    mean = points.mean(0)
    _, singular, axes = torch.linalg.svd(points - mean, full_matrices=False)
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(points), len(singular), generator=draw, dtype=torch.float64).to(points.device)
    return mean + noise * (singular / len(points) ** 0.5) @ axes


# ---- corners


def vertices(points: Tensor) -> Tensor:
    """Whether each of points [n, dim] lies outside of the convex hull of the others, [n].

    Frank and Wolfe's algorithm (1956) walks from the others' mean towards each point; a point is outside once all others lie
    on the far side of the plane through it. A point not separated after 500 steps, inside or within a hair of the hull, is
    not a vertex.
    """
    points = points.double() - points.double().mean(0)
    n = len(points)
    others = ~torch.eye(n, dtype=torch.bool, device=points.device)
    near = (points.sum(0) - points) / max(n - 1, 1)  # of each point, the point of the hull reached
    outside = torch.zeros(n, dtype=torch.bool, device=points.device)
    for _ in range(ROUNDS if n > 1 else 0):
        away = near - points  # [n, dim]
        along = away @ points.T - (away * points).sum(1, keepdim=True)  # [n, other], (other - point) . away
        along = along.masked_fill(~others, torch.inf)
        least, which = along.min(1)
        outside |= least > 1e-9 * away.square().sum(1).clamp(min=1e-300)
        step = points[which] - near
        length = (-(away * step).sum(1) / step.square().sum(1).clamp(min=1e-300)).clamp(0, 1)
        near = near + length[:, None] * step
        if bool(outside.all()):
            break
    return outside | (n == 1)
