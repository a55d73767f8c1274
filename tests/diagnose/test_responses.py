"""What monitors say of the runs of a comparison: logs with known values, planted responses, a control that moves nothing."""

from __future__ import annotations

import math
import random
from pathlib import Path
from statistics import fmean, stdev

import pytest

from cloche.diagnose import compare, monitored
from cloche.diagnose.responses import MONITORS, all_responses, beyond, respond, tables
from cloche.diagnose.variations import called, settings_of
from cloche.errors import SettingConflict
from cloche.runs import Run
from cloche.train import Recipe


def test_each_monitor_of_written_logs(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "", 0)
    with run.log("steps") as log:
        log.append({"step": 4, "loss": [4.0, 3.0, 2.0, 9.0], "grad_norm": [1, 5, 2, 2], "update_norm": [1, 2, 6, 0]})
    early = {"resid_variance": [9, 9, 9], "update_ratio": [0.1, 0.3], "alarms": ["gain[0]"], "noise_scale": 7.0}
    late = {
        **{"resid_variance": [2.0, 3.0, 8.0], "update_ratio": [0.2, 0.6], "alarms": [], "noise_scale": None},
        **{"weight_norm": [3.0, 0.0, 4.0], "attention_entropy": [[0.2, 0.4], [0.9, None]], "rank": [5.0, 2.0]},
        **{
            "kurtosis": [3.0, 9.0, 4.0],
            "gain": [1.0, 3.0],
            "activation_density": [0.5, None],
            "dead_units": [0.0, 0.5],
        },
        "logit_norm": 2.5,
    }
    with run.log("health") as log:
        log.append({"step": 2, **early})
        log.append({"step": 4, **late})
    with run.log("metrics") as log:
        log.append({"step": 4, "val_loss": 3.0, "val_gap": 0.25})
    with run.log("events") as log:
        log.append({"step": 4, "kind": "spike", "message": "", "time": 0.0})
    found = monitored(run)
    assert set(found) == set(MONITORS)
    assert {name: found[name] for name in MONITORS} == pytest.approx(
        {
            **{"diverged": 0, "spikes": 1, "alarms": 0.5, "grad_norm": 2, "grad_norm_max": 5, "update_norm": 2.25},
            **{"update_norm_max": 6, "update_ratio": 0.3, "weight_norm": 5, "resid_variance": 8, "resid_growth": 4},
            **{"attention_entropy": 0.5, "attention_entropy_min": 0.2, "rank": 2, "kurtosis": 9, "gain": 2},
            **{"density": 0.5, "dead_units": 0.25, "logit_norm": 2.5, "noise_scale": 7, "val_gap": 0.25},
        }
    )


def test_a_run_that_ended_in_a_loss_that_is_not_finite_has_diverged(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "", 0)
    with run.log("steps") as log:
        log.append({"step": 2, "loss": [4.0, None], "grad_norm": [1.0, None], "update_norm": [1.0, 0.0]})
    with run.log("events") as log:
        log.append({"step": 2, "kind": "nonfinite", "message": "", "time": 0.0})
    found = monitored(run)
    assert found["diverged"] == 1 and found["grad_norm_max"] == 1 and found["rank"] is None


def test_planted_responses() -> None:
    first = {0: 1.0, 1: 2.0, 2: 4.0}
    same, up = respond(first, first), respond(first, {seed: value + 9 for seed, value in first.items()})
    assert same.difference == same.response == same.half == 0.0 and not same.moved
    assert up.response == pytest.approx(9 / stdev(first.values())) and up.moved and up.mean == pytest.approx(34 / 3)
    agree = dict.fromkeys(range(3), 0.0)
    moved, once = respond(agree, {0: 1.0, 1: 2.0, 2: 1.0}), respond(agree, {0: 0.0, 1: 2.0, 2: 0.0})
    assert moved.response is None and moved.moved and not once.moved, "seeds that agree have no spread to divide by"
    assert respond({0: 1.0}, {0: 3.0})[1:] == (2.0, None, None, False) and respond(agree, {0: None}).mean is None
    (table, moves) = tables(
        ["a", "b"],
        all_responses([{s: dict.fromkeys(MONITORS, v) for s, v in r.items()} for r in (first, agree)]),
        dict.fromkeys(MONITORS, 1.0),
    )
    assert table.rows[0] == ("diverged", pytest.approx(7 / 3), 0.0) and len(moves.rows) == len(MONITORS)


def test_seeds_alone_seldom_move_a_monitor() -> None:
    """Independent runs of one setting are told apart in 5% of cases, whether the first has more seeds or as many."""
    rng = random.Random(0)
    for seeds, pairs in ((3, 3), (8, 3)):
        drawn = [
            ({s: rng.gauss(0, 1) for s in range(seeds)}, {s: rng.gauss(0, 1) for s in range(pairs)})
            for _ in range(1500)
        ]
        assert 0.03 <= fmean(respond(*each).moved for each in drawn) <= 0.07
    assert beyond(1, 1) == math.inf


def test_listed_settings_move_several_keys_at_once() -> None:
    assert [called(setting) for setting in settings_of([{}, {"a.b": "1", "c.d": "2"}])] == ["the recipe", "a.b=1 c.d=2"]
    for wrong in ([{}], [{}, {}]):
        with pytest.raises(SettingConflict):
            settings_of(wrong)


def test_what_changes_nothing_moves_no_monitor_and_a_small_rate_moves_the_updates(tiny: Recipe, tmp_path: Path) -> None:
    settings = [{}, {"log.every": "3"}, {"optimizer.lr": "0.0001", "checkpoint.count": "1"}]
    found = compare(tiny, settings, tmp_path / "out", seeds=2, steps=6, monitors=True)
    first, control, slow = (each["monitors"] for each in found.data["settings"])
    assert set(first) == set(MONITORS) and first["update_norm"]["mean"] > 0 and first["grad_norm"]["difference"] is None
    measured = {name for name in MONITORS if first[name]["mean"] is not None}
    assert measured >= set(MONITORS) - {"noise_scale"}
    for name in measured:
        assert control[name]["difference"] == control[name]["response"] == 0.0 and not control[name]["moved"], name
    assert slow["update_norm"]["response"] < -10 and slow["update_norm"]["moved"]
    assert slow["grad_norm_max"]["difference"] is not None
    assert [panel.title for panel in found.panels] == ["Settings", "Runs", "Monitors", "Responses"]
    assert "log.every=3: none" in found.panels[3].note and "update_norm" in found.text()
