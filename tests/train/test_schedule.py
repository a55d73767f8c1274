"""When things happen: rates and milestones as pure functions of the step."""

import itertools

import pytest

from cloche.train import WSD, Cosine
from cloche.train.optimizers.schedule import milestones


def rates(shape, steps=100, **settings):
    settings = {"warmup": 0.1, "decay": 0.3, "final": 0.1} | settings
    if shape is Cosine:
        settings.pop("decay")
    return [shape(**settings).rate(i, steps) for i in range(steps)]


@pytest.mark.parametrize("shape", [Cosine, WSD])
def test_it_rises_to_one_and_falls_to_the_last(shape):
    r = rates(shape)
    assert r[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert max(r) == 1.0 and r[10] == 1.0
    assert all(a >= b for a, b in itertools.pairwise(r[10:]))
    assert 0.1 <= r[-1] < 0.15


def test_cosine_is_halfway_in_the_middle():
    assert Cosine(0.1, 0.1).rate(55, 100) == pytest.approx(0.55)


def test_wsd_holds_then_falls_linearly():
    r = rates(WSD)
    assert r[10:70] == [1.0] * 60
    assert r[70] == 1.0 and r[85] == pytest.approx(0.55)


@pytest.mark.parametrize("settings", [{"warmup": 0.0}, {"warmup": 1.0}, {"warmup": 0.9, "decay": 0.9}, {"decay": 0.0}])
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("shape", [Cosine, WSD])
def test_extreme_settings_stay_between_zero_and_one(shape, steps, settings):
    assert all(0 < r <= 1 for r in rates(shape, steps, **settings))


@pytest.mark.parametrize("steps", [1, 2, 5, 30, 600, 100_000])
@pytest.mark.parametrize("count", [1, 3, 10])
@pytest.mark.parametrize("early", [False, True])
def test_milestones_are_distinct_and_end_with_the_last(steps, count, early):
    m = milestones(steps, count, early)
    assert m == sorted(set(m)) and m[0] >= 1 and m[-1] == steps
    assert len(m) <= count


def test_early_milestones_stand_where_learning_is_fast():
    m = milestones(600, 10, early=True)
    assert len(m) == 10 and m[0] <= 10
    assert m[-5:] == [120, 240, 360, 480, 600]
