"""Manifolds as functions of arrays: closed forms, a reference, and controls in which nothing is found."""

from __future__ import annotations

import math
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from cloche.errors import ExtraMissing, SignalsShape
from cloche.interp.manifolds.axes import (
    axes_above_chance,
    independent,
    participation_ratio,
    principal,
    trustworthiness,
    umap,
)
from cloche.interp.manifolds.curves import bend, explained_share, half_curves, mean_curve
from cloche.interp.manifolds.dimension import gride, two_nn
from cloche.interp.manifolds.neighbours import nearest_points, purity
from cloche.interp.manifolds.shapes import (
    fit_circle,
    fit_circles,
    fit_helix,
    gaussian_like,
    mixture_index,
    separability,
    vertices,
)
from cloche.interp.manifolds.subspaces import overlap, principal_angles, shape_correlation

TURN = 2 * math.pi


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def flat(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def on_circle(angle: Tensor, width: int = 2, radius: float = 1.0) -> Tensor:
    out = torch.zeros(len(angle), width, dtype=torch.float64)
    out[:, 0], out[:, 1] = radius * angle.cos(), radius * angle.sin()
    return out @ torch.linalg.qr(drawn(width, width, seed=5).double()).Q


# ---- axes


def test_principal_components_are_those_of_the_covariance() -> None:
    points = drawn(60, 7) @ drawn(7, 7, seed=1)
    found = principal(points)
    wide = points.double() - points.double().mean(0)
    values, vectors = torch.linalg.eigh(wide.T @ wide / 60)
    assert torch.allclose(found.variance, values.flip(0)) and float(found.explained.sum()) == pytest.approx(1)
    assert torch.allclose((found.axes @ vectors.flip(1)).abs(), torch.eye(7, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(found.scores(points, 2).square().mean(0), found.variance[:2])
    assert participation_ratio(torch.tensor([2.0, 2.0, 2.0, 0.0])) == 3 and participation_ratio(torch.zeros(2)) == 0


def test_planted_axes_are_counted_and_noise_has_none() -> None:
    noise = drawn(200, 20)
    planted = noise + 3 * drawn(200, 3, seed=1) @ drawn(3, 20, seed=2)
    assert axes_above_chance(planted) == 3
    assert sum(axes_above_chance(drawn(100, 10, seed=i), draws=19, seed=i) for i in range(10)) <= 2


def test_independent_components_are_the_sources_and_agree_with_scikit_learn() -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    sources = torch.stack([flat(2000), flat(2000, seed=1).square(), drawn(2000, seed=7).sign() * flat(2000, seed=2)], 1)
    points = sources @ drawn(3, 5, seed=3)
    found = independent(points, 3).sources
    oracle = decomposition.FastICA(3, random_state=0, whiten="unit-variance", tol=1e-10, max_iter=500)
    theirs = torch.from_numpy(oracle.fit_transform(points.double().numpy()))
    for other, least in ((sources, 0.99), (theirs, 0.999999)):
        cosines = torch.corrcoef(torch.cat([found, other.double()], 1).T)[:3, 3:].abs()
        assert sorted(cosines.argmax(1).tolist()) == [0, 1, 2] and float(cosines.amax(1).min()) > least
    again = independent(points, 3, seed=1).sources
    assert torch.allclose(torch.corrcoef(torch.cat([found, again], 1).T)[:3, 3:].abs().amax(1), torch.ones(3).double())


def test_too_few_points_for_components_and_a_missing_umap_are_one_sentence() -> None:
    with pytest.raises(SignalsShape, match="give more points"):
        independent(drawn(3, 8), 3)
    with pytest.raises(SignalsShape, match="fewer than 3 dimensions"):
        independent(drawn(50, 2) @ drawn(2, 8), 3)
    if find_spec("umap") is None:
        with pytest.raises(ExtraMissing, match=r"UMAP needs umap-learn: pip install 'cloche\[umap\]'."):
            umap(drawn(30, 8), 2)


# ---- neighbours and dimension


@pytest.mark.parametrize(("n", "dim", "count"), [(700, 12, 10), (33, 3, 32), (40, 2, 1), (1025, 5, 40)])
def test_the_nearest_points_are_those_of_all_distances(n: int, dim: int, count: int) -> None:
    points = drawn(n, dim) + 100  # far from the origin, where products alone lose digits
    distances, indices = nearest_points(points, count)
    every = torch.cdist(points.double(), points.double()).fill_diagonal_(torch.inf)
    expected = every.topk(count, largest=False).values
    assert torch.allclose(distances, expected, atol=1e-4)
    assert torch.allclose(every.gather(1, indices), expected, atol=1e-4)


def test_purity_is_the_share_of_neighbours_with_the_same_label() -> None:
    points = torch.cat([drawn(20, 3), drawn(20, 3, seed=1) + 50])
    labels = torch.arange(2).repeat_interleave(20)
    assert purity(nearest_points(points, 10)[1], labels) == 1
    assert purity(nearest_points(points, 39)[1], labels) == pytest.approx(19 / 39)
    with pytest.raises(SignalsShape, match="give more points"):
        nearest_points(points, 40)


def test_the_dimension_of_cubes_is_that_of_the_published_estimator() -> None:
    for d, expected, within in ((1, 1.02, 0.08), (2, 1.92, 0.15), (5, 4.61, 0.3), (10, 8.58, 0.5), (20, 15.2, 0.8)):
        cube = flat(2000, d)
        assert two_nn(cube) == pytest.approx(expected, abs=within)
        first = gride(cube, largest=1)[0]
        assert abs(first.dimension - two_nn(cube)) < 4 * first.error


def test_a_noisy_circle_has_one_dimension_at_the_scale_above_its_noise() -> None:
    circle = on_circle(TURN * flat(1000), 64) + 0.01 * drawn(1000, 64)
    scales = gride(circle, largest=128)
    assert two_nn(circle) > 12 and scales[0].dimension > 12  # the noise
    assert scales[-1].dimension == pytest.approx(1, abs=0.1) and scales[-1].distance > 10 * 0.08 / 2
    assert participation_ratio(principal(circle).variance) == pytest.approx(2, abs=0.05)  # neither


def test_points_that_occur_twice_count_once_and_few_points_are_refused() -> None:
    square = flat(500, 2)
    assert two_nn(torch.cat([square, square])) == pytest.approx(two_nn(square))
    with pytest.raises(SignalsShape, match="at least 10"):
        two_nn(flat(9, 2))


# ---- curves


def test_split_halves_find_the_arc_that_noise_lengthens() -> None:
    count, texts = 23, 60
    codes = torch.arange(count).repeat(texts)
    curve = on_circle(math.pi * torch.arange(count) / (count - 1), 64)  # half a circle
    points = curve[codes] + 0.1 * drawn(len(codes), 64)
    halves = half_curves(points, codes, torch.arange(len(codes)))
    found = bend(halves)
    measured = mean_curve(points, codes, count).diff(dim=0).norm(dim=1).sum()
    assert float(measured) > 1.15 * math.pi  # the plain arc
    assert found.ratio == pytest.approx(math.pi / 2, rel=0.05)
    assert math.cos(math.radians(found.turning)) == pytest.approx(math.cos(math.pi / (count - 1)), abs=0.03)
    straight = torch.arange(count)[codes, None] * drawn(1, 64) + 0.1 * drawn(len(codes), 64)
    assert bend(half_curves(straight, codes, torch.arange(len(codes)))).ratio == pytest.approx(1, abs=0.01)
    share = explained_share(points, codes, halves)
    assert share == pytest.approx(1 / (1 + 64 * 0.01 / float(curve.var(0, correction=0).sum())), abs=0.05)
    noise = half_curves(points, codes[torch.randperm(len(codes))], torch.arange(len(codes)))
    assert abs(explained_share(points, codes, noise)) < 0.02
    rare = (torch.arange(1000) % 10 == 0).long()  # one point in ten is one away from the others
    far = torch.eye(64)[0] * rare[:, None] + 0.01 * drawn(1000, 64)
    share = explained_share(far, rare, half_curves(far, rare, torch.arange(1000)))
    assert share == pytest.approx(0.09 / (0.09 + 64 * 0.0001), abs=0.01)


def test_halves_of_texts_that_lack_a_value_are_drawn_again() -> None:
    codes, groups = torch.tensor([0, 1] * 2 + [0] * 20), torch.tensor([0, 0, 1, 1, *range(2, 22)])
    points = torch.ones(len(codes), 2)  # only two texts have the value 1
    assert all(bool((side == 1).all()) for halves in half_curves(points, codes, groups) for side in halves)


def test_halves_are_disjoint_and_keep_the_points_of_a_text_together() -> None:
    codes = torch.arange(4).repeat(6)
    text = torch.arange(6).repeat_interleave(4)
    for a, b in half_curves(text[:, None].float(), codes, text, splits=3):
        assert (a == a[0]).all() and (b == b[0]).all() and float(a[0] + b[0]) == pytest.approx(5)
    single = half_curves(torch.arange(24)[:, None].float(), codes, torch.arange(24), splits=3)
    assert all(torch.allclose(a + b, 2 * (torch.arange(4.0) + 10)[:, None].double()) for a, b in single)


# ---- shapes


def test_a_planted_circle_is_found_with_its_period_phase_and_radius() -> None:
    values = torch.arange(23.0)
    points = on_circle(TURN * (5 * values / 23 + 0.125), 40, radius=3) + 7
    found = fit_circle(points, values)
    assert found.period == pytest.approx(23 / 5) and found.closed and found.p_value == 1 / 200
    assert found.radius == pytest.approx(3) and found.share == pytest.approx(1) and found.roundness == pytest.approx(1)
    assert torch.allclose(found.centre, points.mean(0)) and torch.allclose(found.centre + found.at(values), points)
    away = (found.angles(points) - 360 * 5 * values / 23 + 180) % 360 - 180
    assert float(away.abs().max()) < 1e-3


def test_several_circles_are_found_one_after_another_and_no_more() -> None:
    values = torch.arange(31.0)
    waves = [radius * on_circle(TURN * k * values / 31, 48) for k, radius in ((3, 3.0), (11, 2.0))]
    frame = torch.linalg.qr(drawn(48, 48, seed=9).double()).Q
    points = waves[0] + waves[1] @ frame + 0.05 * drawn(31, 48)
    found = fit_circles(points, values)
    assert [round(31 / circle.period) for circle in found] == [3, 11]
    assert [circle.radius for circle in found] == pytest.approx([3, 2], rel=0.05)


def test_lines_and_arcs_are_not_closed_circles() -> None:
    values = torch.arange(30.0)
    line = fit_circle(values[:, None] * drawn(1, 8), values)
    assert line.score < 0.01 and line.p_value == 1
    arc = fit_circle(on_circle(math.pi * values / 30, 8), values)
    assert not arc.closed and arc.period == pytest.approx(60) and arc.score > 0.9


def test_shuffled_values_have_no_circle() -> None:
    points, values = on_circle(TURN * torch.arange(15) / 15, 16) + 0.3 * drawn(15, 16), torch.arange(15.0)
    draws = [points[torch.randperm(15, generator=torch.Generator().manual_seed(i))] for i in range(100)]
    assert sum(fit_circle(rows, values, draws=59, seed=i).p_value <= 0.05 for i, rows in enumerate(draws)) <= 9
    assert fit_circle(points, values, draws=59).p_value <= 0.05


def test_a_helix_is_explained_and_noise_is_not() -> None:
    values = torch.arange(60.0)
    circles = [torch.stack([(TURN * values / t).cos(), (TURN * values / t).sin()], 1) for t in (5, 10)]
    points = torch.cat([values[:, None] / 20, *circles], 1) @ drawn(5, 24)
    found = fit_helix(points, values, (2, 5, 10))
    assert found.share == pytest.approx(1) and found.lost["5"] > 0.05 and abs(found.lost["2"]) < 1e-9
    assert abs(fit_helix(drawn(60, 24), values, (2, 5, 10)).share) < 0.05
    with pytest.raises(SignalsShape, match="fewer periods"):
        fit_helix(drawn(6, 3), torch.arange(6.0), (2, 5, 10))
    with pytest.raises(SignalsShape, match="5 different"):
        fit_circle(drawn(4, 3), torch.arange(4.0))


@pytest.mark.parametrize(("n", "gaussian"), [(200, 0.3), (2000, 0.04)])
def test_a_circle_is_inseparable_and_gaussian_points_of_its_covariance_are_not(n: int, gaussian: float) -> None:
    circle = on_circle(TURN * flat(n)) * 2 + 5
    assert separability(circle) > 1.1
    like = gaussian_like(circle)
    assert separability(like) < gaussian
    assert torch.allclose(like.mean(0), circle.mean(0), atol=0.5) and mixture_index(like) < 0.16
    assert mixture_index(drawn(8000, 2)) == pytest.approx(0.0797, abs=0.015)  # 2 Phi(.1) - 1
    mostly_off = drawn(n, 2) * (flat(n, 1) < 0.3) + 0.01 * drawn(n, 2, seed=1)
    assert mixture_index(mostly_off) > 0.65


# ---- subspaces


def test_principal_angles_are_those_of_planted_planes() -> None:
    axes = torch.linalg.qr(drawn(12, 12)).Q.double()
    angles = torch.tensor([1e-7, 0.5, 1.2], dtype=torch.float64)
    turned = angles.cos()[:, None] * axes[:3] + angles.sin()[:, None] * axes[3:6]
    found = principal_angles(drawn(3, 3, seed=1).double() @ axes[:3], turned)
    assert torch.allclose(found, angles.rad2deg(), atol=1e-7)
    assert overlap(axes[:3], axes[:5]) == pytest.approx(1) and overlap(axes[:3], axes[3:6]) == pytest.approx(
        0, abs=1e-9
    )
    many = [overlap(drawn(3, 12, seed=i), drawn(3, 12, seed=100 + i)) for i in range(50)]
    assert sum(many) / 50 == pytest.approx(3 / 12, abs=0.04)
    with pytest.raises(SignalsShape, match="one width"):
        principal_angles(drawn(2, 4), drawn(2, 5))


def test_a_turned_scaled_shape_is_the_same_and_another_is_not() -> None:
    shape = drawn(40, 5).double()
    turned = 3 * shape @ torch.linalg.qr(drawn(9, 9)).Q[:5].double() + 2
    assert shape_correlation(shape, turned) == pytest.approx(1)
    assert shape_correlation(shape, drawn(40, 5, seed=7)) < 0.5
    assert shape_correlation(shape, torch.ones(40, 3)) == 0
    with pytest.raises(SignalsShape, match="correspond"):
        shape_correlation(shape, shape[:10])


def test_vertices_are_those_of_the_convex_hull() -> None:
    square = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1], [0.5, 0.5], [0.9, 0.5]])
    assert vertices(square).tolist() == [True] * 4 + [False] * 2
    assert vertices(on_circle(TURN * torch.arange(20) / 20, 5)).all()
    assert vertices(drawn(9, 12)).all()  # a simplex
    cloud = drawn(120, 2)
    hull = pytest.importorskip("scipy.spatial").ConvexHull(cloud.numpy()).vertices
    assert sorted(hull.tolist()) == vertices(cloud).nonzero().flatten().tolist()


def test_trustworthiness_is_that_of_scikit_learn() -> None:
    manifold = pytest.importorskip("sklearn.manifold")
    points = drawn(60, 8)
    for seen in (points[:, :2], drawn(60, 2, seed=3), points):
        expected = manifold.trustworthiness(points.numpy(), seen.numpy(), n_neighbors=7)
        assert trustworthiness(points, seen, 7) == pytest.approx(expected)
    with pytest.raises(SignalsShape, match="more than 9 points"):
        trustworthiness(drawn(8, 2), drawn(8, 2), 6)
