"""Settings compared over seeds: what is identical, what is better, what was interrupted, what diverged."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from cloche.diagnose import combinations_of, compare, read_variations, seeds_needed, verdict
from cloche.diagnose.comparing import _dropped
from cloche.drawing import Interval
from cloche.errors import ClocheError, RecipeInvalid, RunExists, SettingConflict
from cloche.runs import Run, verify
from cloche.train import SGD, Recipe, Trainer


@dataclass(frozen=True)
class Overflowing(SGD):
    """Steps so large that the second loss is not finite."""

    def build(self, net: nn.Module, dtype: torch.dtype = torch.float32) -> list[torch.optim.Optimizer]:
        built = super().build(net, dtype)
        for group in built[0].param_groups:
            group["lr"] *= 1e38
        return built


def test_variations_are_split_outside_brackets_and_quotes() -> None:
    read = read_variations(["optimizer=AdamW(lr=0.01, clip=2),Muon", "evaluate.prompts=['a,b'],['c']", "run.batch=4"])
    assert read["optimizer"] == ["AdamW(lr=0.01, clip=2)", "Muon"]
    assert read["evaluate.prompts"] == ["['a,b']", "['c']"]
    assert len(combinations_of(read)) == 4
    for wrong in ("optimizer.lr", "optimizer.lr=1,,2", "optimizer=AdamW(lr=1,Muon"):
        with pytest.raises(RecipeInvalid):
            read_variations([wrong])
    for wrong in (["run.seed=1,2"], ["run.steps=1,2"], ["a.b=1,1"], ["a.b=1", "a.b=2"]):
        with pytest.raises(SettingConflict):
            read_variations(wrong)
    with pytest.raises(SettingConflict, match="nothing to compare"):
        combinations_of({"run.batch": ["4"]})


def test_verdicts_of_planted_differences() -> None:
    assert verdict([0.0, 0.0, 0.0]) == "identical"
    assert verdict([-0.2, -0.21, -0.19]) == "better" and verdict([0.2, 0.21, 0.19]) == "worse"
    assert verdict([0.1, -0.1, 0.11]).startswith("within noise: about ")
    assert verdict([0.1, -0.1]) == "within noise: more than 1,000 seeds would be needed"
    assert verdict([0.1]) == "one seed: no interval" and verdict([]) == "not compared"


def test_the_interval_covers_and_the_named_seeds_tell() -> None:
    """95% of the intervals hold the true difference; the named number of seeds finds it in 80% of comparisons."""
    rng, trials, gap, spread = random.Random(0), 600, 0.5, 1.0

    def differences(seeds: int) -> list[float]:
        return [rng.gauss(gap, spread) for _ in range(seeds)]

    for seeds in (2, 3, 6):
        held = sum(abs((found := Interval(tuple(differences(seeds)))).mean - gap) <= found.half for _ in range(trials))
        assert 0.93 <= held / trials <= 0.97
    exact = [gap - spread / 2**0.5, gap + spread / 2**0.5]  # of this mean and standard deviation
    needed = seeds_needed(exact)
    assert needed is not None
    told = sum(verdict(differences(needed)) == "worse" for _ in range(trials))
    assert 0.75 <= told / trials <= 0.86
    null = sum(verdict([rng.gauss(0, spread) for _ in range(5)]) in ("better", "worse") for _ in range(trials))
    assert 0.03 <= null / trials <= 0.07


def test_a_setting_that_changes_nothing_is_identical(tiny: Recipe, tmp_path: Path) -> None:
    found = compare(tiny, {"log.every": ["2", "3"]}, tmp_path / "out", seeds=1, steps=6)
    assert found.data["settings"][1]["verdict"] == "identical" and found.figures == {"difference": 0.0}


@pytest.mark.slow
def test_a_setting_that_changes_nothing_is_identical_and_a_rate_too_small_is_worse(
    tiny: Recipe, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    vary = {"optimizer.lr": ["0.01", "0.0001"], "log.every": ["2", "3"]}
    notes = []
    found = compare(tiny, vary, out, seeds=3, steps=10, on_progress=lambda *told: notes.append(told))
    first, same, slow, too = found.data["settings"]
    assert first["verdict"] == "first" and same["verdict"] == "identical" and same["difference"] == 0.0
    assert slow["verdict"] == too["verdict"] == "worse" and slow["difference"] == too["difference"] > 0.1
    assert found.figures["difference"] == 0.0 and found.null == {"difference": 0.0, "half_interval": 0.0}
    assert len(found.data["runs"]) == 12 and all(run["seconds"] > 0 for run in found.data["runs"])
    assert notes[-1][0] == notes[-1][1] == 12
    # the data was prepared once, and every run is a whole one
    stored = {path.stat().st_ino for path in out.glob("*/data/train-00000.bin")}
    assert len(stored) == 1 or not hasattr(Path, "hardlink_to")
    assert not verify(out / found.data["runs"][-1]["run"]).problems
    # called again, nothing is trained; with another seed only its runs are
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/log/metrics.jsonl")}
    assert compare(tiny, vary, out, seeds=3, steps=10).record()["data"] == found.record()["data"]
    compare(tiny, {"optimizer.lr": ["0.01", "0.0001"], "log.every": ["2"]}, out, seeds=4, steps=10)
    after = {path: path.stat().st_mtime_ns for path in out.glob("*/log/metrics.jsonl")}
    assert before.items() <= after.items()
    for other, steps in ((tiny.with_set({"model.width": 32}), 10), (tiny, 11)):
        with pytest.raises(RunExists, match="another recipe"):
            compare(other, vary, out, seeds=3, steps=steps)


def test_an_interrupted_comparison_goes_on(tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vary = {"run.batch": ["4", "5"]}
    whole = compare(tiny, vary, tmp_path / "whole", seeds=1)
    update = Trainer.update
    calls = []

    def interrupted(self: Trainer) -> object:
        calls.append(self.step)
        if len(calls) == 18:  # within the second run
            self.stop()
        return update(self)

    monkeypatch.setattr(Trainer, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(tiny, vary, tmp_path / "out", seeds=1)
    resumed = compare(tiny, vary, tmp_path / "out", seeds=1)
    assert len(calls) == 24, "no step is trained twice"
    scores = [[run["bits_per_byte"] for run in each.data["runs"]] for each in (whole, resumed)]
    assert scores[0] == scores[1]


def test_a_run_that_diverges_is_reported_and_the_others_go_on(tiny: Recipe, tmp_path: Path) -> None:
    vary = {"optimizer": ["SGD(lr=1e-3)", "test_compare:Overflowing(lr=1e-3)"], "run.batch": ["4"]}
    for _ in range(2):  # also when it is read again
        found = compare(tiny, vary, tmp_path / "out", seeds=2, steps=6)
        good, bad = found.data["settings"]
        assert good["seeds"] == 2 and bad["verdict"] == "diverged with 2 of 2 seeds" and bad["mean"] is None
        assert found.figures == {} and len(found.notes) == 2 and "step" in found.notes[0]
        assert "diverged" in found.text() and json.dumps(found.record())


def test_minutes_are_converted_once_and_all_runs_take_the_same_steps(tiny: Recipe, tmp_path: Path) -> None:
    found = compare(tiny, {"optimizer.lr": ["0.01", "0.02"]}, tmp_path / "out", seeds=1, minutes=0.004)
    steps = {run["steps"] for run in found.data["runs"]}
    assert len(steps) == 1
    recipes = [Recipe.parse(Run.open(tmp_path / "out" / run["run"]).recipe) for run in found.data["runs"]]
    assert {recipe.run.steps for recipe in recipes} == steps and {recipe.run.minutes for recipe in recipes} == {None}


def test_what_cannot_be_compared_is_refused_before_training(tiny: Recipe, tmp_path: Path) -> None:
    for changes, wrong in (
        ({"model.width": ["24", "25"]}, SettingConflict),
        ({"optimizer.rate": ["1", "2"]}, ClocheError),
        ({"run.nothing": ["1", "2"]}, ClocheError),
    ):
        with pytest.raises(wrong):
            compare(tiny, changes, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(RunExists, match="no comparison"):
        compare(tiny, {"run.batch": ["4", "5"]}, tmp_path / "other")


def test_what_a_whole_part_replaces_is_noted(tiny: Recipe) -> None:
    recipe = tiny.with_set({"optimizer": "AdamW(lr=0.01, average=EMA(decay=0.9), groups=[Group('embed', scale=2.0)])"})
    noted = _dropped(recipe, [{"optimizer": "SGD(lr=0.1)"}, {"optimizer": "Muon"}])
    assert [note.split()[0] for note in noted] == ["optimizer.average", "optimizer.groups"]
    kept = "SGD(average=EMA(decay=0.9), groups=[Group('embed', scale=2.0)])"
    assert _dropped(recipe, [{"optimizer": kept}, {"optimizer.lr": "0.1"}]) == []
