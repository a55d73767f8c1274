"""The bench of stability knobs: each of its settings can be trained, and turns one knob of the baseline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.rounds import RESULTS
from bench.train.knob_claims import CLAIMS, claims, judged
from bench.train.knob_page import page, responses
from bench.train.knobs import PAGE, RATES, baseline, knobs, measured
from cloche.train import check_model


@pytest.mark.slow
def test_every_knob_can_be_turned(tmp_path: Path) -> None:
    recipe = baseline(str(tmp_path), RATES["good"])
    for knob, given in knobs(1.0).items():
        for value, setting in given.items():
            changed = recipe.with_set(setting)
            assert changed.changes_from(recipe), (knob, value)
            check_model(changed)


def test_statements_are_judged_by_paired_differences() -> None:
    assert (
        judged([1.0, 1.1, 1.2], [2.0, 2.1, 2.3]) == judged([2.0, 2.1, 2.3], [1.0, 1.1, 1.2], more=True) == "supported"
    )
    assert judged([2.0, 2.1], [1.0, 1.1]) == "contradicted" and judged([1.0, 2.0], [1.5, 1.4]) == "within noise"
    names = {f"{knob}: {value}" for knob, given in knobs(1.0).items() for value in given} | {"baseline"}
    assert {name for claim in CLAIMS for name in (claim.of, claim.than)} <= names


@pytest.mark.slow
def test_a_small_table_from_runs_to_page(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(
        "the glass house grows a model under light and we look inside it step by step while it learns\n" * 400
    )
    given = knobs(1.0)
    named = {f"{k}: {v}": given[k][v] for k, v in (("control", "log.every 7"), ("softmax", "qk_norm"))}
    recipe = baseline(str(text), 0.01, steps=6).with_set({"tokenizer.vocab": 270, "model.body.depth": 1})
    recipe = recipe.with_set({"run.length": 16, "evaluate.tokens": 256})
    rate = measured(recipe, named, tmp_path / "runs" / "good", seeds=2, many=4)
    first, control, changed = rate["settings"]
    assert not any(each.difference for each in responses(rate)[control["name"]].values()) and changed["difference"] != 0
    assert len(first["values"]["spikes"]) == 4 and len(first["bits"]) == 2
    said = claims({"good": rate["settings"]}, tmp_path / "runs", text)
    assert {each["of"] for each in said} == {"softmax: qk_norm"} and len(said) == 2
    record = {"steps": 6, "seeds": 2, "baseline_seeds": 4, "rates": {"good": rate, "high": rate}, "claims": said}
    told = page(json.loads(json.dumps(record)))
    assert "exactly 0" in told and "| softmax: qk_norm |" in told and said[0]["verdict"] in told


@pytest.mark.skipif(not (RESULTS / "knobs.json").exists(), reason="python -m bench.train.knobs has not been run")
def test_the_page_is_that_of_the_results() -> None:
    """And its control, a setting that changes nothing, moved nothing."""
    record = json.loads((RESULTS / "knobs.json").read_text())
    assert PAGE.read_text() == page(record)
    for rate in record["rates"].values():
        moved = responses(rate)["control: log.every 7"].values()
        assert rate["settings"][1]["difference"] == 0 and not any(each.difference for each in moved)
        assert rate["moved_by_other_seeds"] < 0.15
