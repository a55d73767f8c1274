"""When things happen: rates and milestones as pure functions of the step."""

import dataclasses
import itertools

import pytest

from cloche.errors import SettingInvalid
from cloche.part import part_from_line
from cloche.train import WSD, Constant, Cosine, InverseSquareRoot, Linear, Schedule, StepPlan
from cloche.train.optimizers.schedule import milestones

FALLING = [Cosine, WSD, Linear, InverseSquareRoot]


def built(shape, **settings):
    settings = {"warmup": 0.1, "decay": 0.3, "final": 0.1} | settings
    fields = {field.name for field in dataclasses.fields(shape)} - ({"final"} if shape is Constant else set())
    return shape(**{name: value for name, value in settings.items() if name in fields})


def rates(shape, steps=100, **settings):
    return [built(shape, **settings).rate(i, steps) for i in range(steps)]


@pytest.mark.parametrize("shape", FALLING)
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
@pytest.mark.parametrize("shape", [*FALLING, Constant])
@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
def test_extreme_settings_stay_between_zero_and_one(shape, steps, settings, final):
    r = rates(shape, steps, **settings, final=final)
    assert all(0 < rate <= 1 for rate in r)
    top = r.index(1.0)
    assert all(a <= b for a, b in itertools.pairwise(r[: top + 1])), "it rises"
    assert all(a >= b for a, b in itertools.pairwise(r[top:])), "and falls"


def test_a_line_is_the_decay_of_wsd_over_all_steps():
    assert rates(Linear) == pytest.approx(rates(WSD, decay=1.0))


def test_constant_rises_and_stays():
    assert rates(Constant) == [(i + 1) / 10 for i in range(10)] + [1.0] * 90
    with pytest.raises(SettingInvalid, match=r"Constant\(final=0.05\) must end at the peak"):
        Constant(final=0.05)


def test_the_inverse_square_root_is_the_papers_and_cools_down():
    r = rates(InverseSquareRoot, decay=0.0, final=0.0)
    paper = [min((i + 1) / 10, (10 / i) ** 0.5 if i else 1) for i in range(100)]  # 10 updates of warm-up
    assert r == pytest.approx(paper)
    assert rates(InverseSquareRoot, decay=0.0, final=0.4)[-1] == 0.4
    cooled = rates(InverseSquareRoot, decay=0.3, final=0.0)
    assert cooled[:71] == pytest.approx(r[:71]) and cooled[85] == pytest.approx(r[70] / 2)


@pytest.mark.parametrize("shape", [*FALLING, Constant])
@pytest.mark.parametrize("steps", [60, 100, 171])
def test_a_replanned_schedule_has_no_jump_and_ends_where_it_would_have(shape, steps):
    """Of 100 steps, from step 40 on."""
    plan = StepPlan(100, built(shape))
    plan.turns.append((40, steps))
    r = [plan.rate(step) for step in range(steps)]
    assert r[:40] == rates(shape)[:40] and r[-1] == rates(shape)[-1]
    assert all(a >= b for a, b in itertools.pairwise(r[10:]))
    steepest = max(a - b for a, b in itertools.pairwise(rates(shape)[10:]))
    assert max(a - b for a, b in itertools.pairwise(r[39:])) <= 3.2 * max(steepest, 1e-12)


def test_they_are_found_by_name():
    for shape in (*FALLING, Constant):
        assert part_from_line(f"{shape.__name__}(warmup=0.2)", Schedule) == shape(warmup=0.2)


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
