"""Error rates of instruments with a p-value, in fewer models than bench/interp/error_rates.py, which has 100 of each kind."""

from __future__ import annotations

import pytest

from bench.interp.error_rates import INSTRUMENTS, error_rates

MODELS = 12
STEERING = ["steering_comparison", "function_vectors"]
CHEAP = [
    name for name in INSTRUMENTS if name not in ("ablation (optimal)", "ablation (noise)", "head_scores", *STEERING)
]


@pytest.mark.slow
@pytest.mark.parametrize("names", [CHEAP, STEERING], ids=["interventions", "steering"])
def test_planted_effects_are_reported_and_random_models_seldom_have_any(names: list[str]) -> None:
    for name, (false, true) in error_rates(MODELS, names).items():
        assert false <= 3 and true >= 9, (name, false, true)  # at 5%, more than 3 of 12 in one of 500 runs
