"""The definition of divergence, on losses whose answer can be read off."""

import math

import pytest

from cloche.diagnose import first_divergence

CALM = [3.0] * 40


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        (CALM + [4.6] * 20, 41),
        (CALM + [4.6] * 19 + CALM, None),  # a spike that recovers
        (CALM + [4.4] * 200, None),  # a new level below the factor
        ([9.0] * 10 + [3.0] * 9 + [20.0] * 25, 21),  # from the first that may be one
        ([9.0] * 10 + [3.0] * 11 + [9.2] * 25, 22),
        ([*CALM, math.nan], 41),
        ([*CALM, 5.0, 5.0, None], 41),
        ([*CALM, math.inf, *CALM], None),
        ([-3.0] * 80, None),  # an objective may be negative
        ([-3.0] * 40 + [-1.0] * 20, 41),
        ([], None),
        ([math.nan], None),
    ],
)
def test_divergence(losses, step):
    assert first_divergence(losses) == step


def test_the_median_runs_along():
    falling = [10.0 * 0.97**i for i in range(120)]
    at = falling[-1]
    assert first_divergence(falling + [1.2 * falling[-50]] * 20) == 121
    assert first_divergence(falling + [1.4 * at] * 20) is None
