"""Early warning: losses whose course is known, and runs that resume."""

import json
import math
from typing import NamedTuple

import pytest
from tiny_training import tiny_recipe

from cloche.train import EarlyWarning, Tolerance


class Step(NamedTuple):
    loss: float
    grad_norm: float | None = 1.0
    grad_norms: tuple[float, ...] | None = None


def alarms(steps, watch=None):
    watch = watch or EarlyWarning()
    return [alarm for i, step in enumerate(steps) if (alarm := watch.add(i + 1, step))]


def falling(steps):
    return [Step(3 + 4 * math.exp(-i / 30)) for i in range(steps)]


def test_a_loss_that_only_falls_raises_nothing():
    assert alarms(falling(400)) == []


def test_a_loss_that_rises_slowly_is_told_of_once_before_it_is_high():
    rising = [Step(3 * 1.01**i) for i in range(60)]
    (alarm,) = alarms(falling(200) + rising)
    assert alarm.quantity == "loss" and 200 < alarm.step < 225
    assert alarm.value < 1.2 * alarm.usual


def test_what_jumps_and_comes_back_raises_nothing():
    bad = [Step(9.0)] * 3
    other_text = [Step(3.2 + math.exp(-i / 10)) for i in range(60)]
    assert alarms(falling(200) + bad + falling(200)[100:] + bad + other_text) == []


def test_gradients_that_surge_are_enough_with_a_slight_rise():
    calm = [Step(3.0, 1.0, (0.1, 0.7, 0.7))] * 100
    (alarm,) = alarms(calm + [Step(3.2, 5.0, (0.1, 4.9, 1.0))] * 12)
    assert (alarm.quantity, alarm.place) == ("grad_norm", 1)
    assert alarms(calm + [Step(3.2, 1.0, (0.1, 0.7, 0.7))] * 12) == []


def test_text_that_says_nothing_is_told_of():
    (alarm,) = alarms(falling(200) + [Step(3 * 0.7**i) for i in range(20)])
    assert alarm.value < alarm.usual / 2


@pytest.mark.parametrize("norm", [None, math.inf, 0.0])
def test_gradient_norms_that_say_nothing(norm):
    assert alarms([Step(3.0, norm)] * 100) == []


def test_it_goes_on_from_its_state():
    steps = falling(150) + [Step(3 * 1.01**i, 1.0 + i, (1.0, 0.1 * i)) for i in range(60)]
    for cut in (5, 100, 155, 170):
        first, second = EarlyWarning(), EarlyWarning()
        before = alarms(steps[:cut], first)
        second.restore(json.loads(json.dumps(first.state())))
        after = [alarm for i, step in enumerate(steps[cut:], cut + 1) if (alarm := second.add(i, step))]
        assert before + after == alarms(steps)


def test_the_tolerance_is_the_optimisers():
    wide = EarlyWarning(Tolerance(rise=3.0, slight=3.0))
    assert alarms(falling(200) + [Step(3 * 1.01**i) for i in range(60)], wide) == []
    assert tiny_recipe().optimizer.tolerance == Tolerance()
