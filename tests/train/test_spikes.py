"""Spikes are told from noise, by planted ones."""

import math
import random

from cloche.train.monitors.spikes import SpikeGuard


def curve(steps=500, seed=0):
    rng = random.Random(seed)
    return [2 + 6 * math.exp(-i / 60) + rng.gauss(0, 0.08) for i in range(steps)]


def test_a_noisy_falling_curve_holds_no_spike():
    for seed in range(5):
        guard = SpikeGuard()
        assert not any(guard.is_spike(loss) for loss in curve(seed=seed))


def test_planted_spikes_are_found_and_nothing_else():
    losses = curve()
    for step in (150, 300, 301, 420):
        losses[step] += 2.5
    guard = SpikeGuard()
    assert [i for i, loss in enumerate(losses) if guard.is_spike(loss)] == [150, 300, 301, 420]


def test_a_calm_window_does_not_make_a_spike_of_a_ripple():
    guard = SpikeGuard()
    assert not any(guard.is_spike(loss) for loss in [1.0] * 100 + [1.3])
    assert guard.is_spike(1.6)


def test_nothing_is_judged_before_the_window_is_half_full():
    guard = SpikeGuard(window=20)
    assert not any(guard.is_spike(loss) for loss in [1.0] * 9 + [50.0])


def test_a_level_that_moved_is_accepted_after_a_while():
    guard = SpikeGuard(patience=5)
    for _ in range(64):
        guard.is_spike(2.0)
    judged = [guard.is_spike(4.0) for _ in range(40)]
    assert judged == [True] * 4 + [False] * 36


def test_state_restores_its_judgement():
    guard, losses = SpikeGuard(), curve()
    for loss in losses[:200]:
        guard.is_spike(loss)
    other = SpikeGuard()
    other.restore(guard.state())
    assert [guard.is_spike(x + 0.3) for x in losses[200:]] == [other.is_spike(x + 0.3) for x in losses[200:]]
    assert guard.limit() == other.limit()
