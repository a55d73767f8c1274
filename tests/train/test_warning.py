"""Early warning: losses whose course is known, and runs that resume."""

import json
import math
from dataclasses import dataclass
from random import Random
from typing import ClassVar, NamedTuple

import pytest
from tiny_training import tiny_recipe

from cloche.train import SGD, EarlyWarning, Tolerance, Trainer


class Step(NamedTuple):
    loss: float
    grad_norm: float | None = 1.0
    grad_norms: tuple[float, ...] | None = None


def alarms(steps, watch=None):
    watch = watch or EarlyWarning()
    return [alarm for i, step in enumerate(steps) if (alarm := watch.add(i + 1, step))]


def course(loss, seed=0, norm=1.0, noise=0.02):
    """Steps with these losses and a noise of 2%."""
    random = Random(seed)
    return [Step(x * math.exp(noise * random.gauss(0, 1)), norm, (0.1, 0.7, 0.7)) for x in loss]


FALLING = [3 + 4 * math.exp(-i / 30) for i in range(200)]


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_that_only_falls_raises_nothing(seed):
    assert alarms(course(FALLING + [3.0] * 300, seed)) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_that_rises_slowly_is_told_of_once_before_it_is_high(seed):
    (alarm,) = alarms(course(FALLING + [3 * 1.01**i for i in range(60)], seed))
    assert 203 < alarm.step < 225
    assert alarm.value < 1.25 * alarm.usual


def test_losses_that_are_not_positive_raise_nothing():
    """That of a policy gradient is near zero, on either side."""
    random = Random(0)
    assert alarms([Step(random.gauss(0.02, 0.02)) for _ in range(40)] + [Step(-0.01)] * 200) == []


@pytest.mark.parametrize("seed", range(5))
def test_what_jumps_and_comes_back_raises_nothing(seed):
    other_text = [3.2 + math.exp(-i / 10) for i in range(100)]
    assert alarms(course([*FALLING, 9.0, 9.0, 9.0, *[3.0] * 40, 9.0, *[3.0] * 60, *other_text], seed)) == []


def test_what_jumps_and_stays_or_climbs_is_told_of():
    (alarm,) = alarms(course(FALLING + [5.0] * 60))
    assert 220 < alarm.step < 230
    (alarm,) = alarms(course([*FALLING, 4.0, 4.3, 4.6, 5.0, 5.6, 6.3, 7.0, 8.0]))
    assert alarm.step < 208


def test_gradients_that_surge_are_told_of_where_they_did():
    calm = course([3.0] * 100)
    (alarm,) = alarms(calm + [Step(3.1, 5.0, (0.1, 4.9, 1.0))] * 12)
    assert (alarm.quantity, alarm.place) == ("grad_norm", 1)
    assert alarm.step < alarms(calm + [Step(3.1, 1.0, (0.1, 0.7, 0.7))] * 12)[0].step
    assert alarms(calm + [Step(2.9, 5.0, (0.1, 4.9, 1.0))] * 60) == []  # while the loss is as it was


def test_text_that_says_nothing_is_told_of():
    (alarm,) = alarms(course(FALLING + [3 * 0.7**i for i in range(20)]))
    assert alarm.value < alarm.usual / 2


@pytest.mark.parametrize("norm", [None, math.inf, 0.0])
def test_gradient_norms_that_say_nothing(norm):
    assert alarms([Step(3.0, norm)] * 100) == []


@pytest.mark.parametrize("cut", [5, 100, 155, 203, 215])
def test_it_goes_on_from_its_state(cut):
    steps = course(FALLING + [9.0] * 3 + [3 * 1.01**i for i in range(60)])
    first, second = EarlyWarning(), EarlyWarning()
    before = alarms(steps[:cut], first)
    second.restore(json.loads(json.dumps(first.state())))
    after = [alarm for i, step in enumerate(steps[cut:], cut + 1) if (alarm := second.add(i, step))]
    assert before + after == alarms(steps)


def test_the_tolerance_is_the_optimisers():
    rising = course(FALLING + [3 * 1.01**i for i in range(30)])
    assert alarms(rising) and alarms(rising, EarlyWarning(Tolerance(rise=1.0))) == []
    assert tiny_recipe().optimizer.tolerance == Tolerance()


@dataclass(frozen=True)
class Anxious(SGD):
    """An optimiser with a tolerance of its own, for nothing at all."""

    tolerance: ClassVar[Tolerance] = Tolerance(limit=0.5, drift=-1.0, rise=-10.0, loss_noise=1e9)


def test_a_run_logs_its_warnings_and_resumes_to_the_same(new_run):
    recipe = tiny_recipe(run__steps=40, checkpoint__count=2).model_copy(update={"optimizer": Anxious(lr=0.01)})
    straight, halves = new_run("straight", recipe), new_run("halves", recipe)
    list(Trainer.start(recipe, straight))
    trainer = Trainer.start(recipe, halves)
    for record in trainer:
        if record["step"] >= 30:
            trainer.stop()
    list(Trainer.resume(halves))
    found = [
        [{**e, "time": 0, "chain": ""} for e in r.read_log("events") if e["kind"] == "warning"]
        for r in (straight, halves)
    ]
    assert found[0] and found[0] == found[1]
    assert found[0][0]["quantity"] in ("loss", "grad_norm") and found[0][0]["place"] in (
        "embed",
        "layer 0",
        "layer 1",
        "head",
    )
