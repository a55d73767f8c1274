"""Logs that are not as they were written: `cloche why` says which record, and guesses nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cloche.diagnose import explain, monitored, prove_remedies
from cloche.diagnose.history import read_history
from cloche.diagnose.proving.logged import logged_losses
from cloche.errors import FileDamaged
from cloche.runs import Run
from cloche.train import Recipe, Trainer


@pytest.fixture(scope="session")
def logged(tmp_path_factory: pytest.TempPathFactory, tiny: Recipe) -> Run:
    run = Run.create(tmp_path_factory.mktemp("logged") / "run", tiny.to_toml())
    for _ in Trainer.start(tiny, run):
        pass
    return run


def changed(run: Run, to: Path, log: str, number: int, key: str, value: Any) -> Run:
    """A copy of a run with another value in one record of a log; without the key for `...`."""
    shutil.copytree(run.path, to)
    path = to / "log" / f"{log}.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[number].pop(key)
    records[number] |= {} if value is ... else {key: value}
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return Run.open(to)


WRONG = [
    *(("steps", key, value) for key in ("loss", "grad_norm", "update_norms") for value in (None, 5, [], ["x"])),
    ("steps", "loss", ...),
    *(("steps", "step", value) for value in (..., None, "x", -1, 3, True, 2.5, 10**12)),
    ("steps", "loss", [10**400, 1.0]),
    ("steps", "grad_norms", [1.0, 1.0]),
    *((log, "step", value) for log in ("metrics", "health", "events") for value in (..., None, "x", -1, 10**12)),
    *(("metrics", "loss", value) for value in ("x", [1.0], 10**400)),
    *(("health", "update_ratio", value) for value in ("x", 5, {"a": 1})),
    *(("events", "kind", value) for value in (..., None, [])),
]


@pytest.mark.parametrize(("log", "key", "value"), WRONG)
def test_a_record_that_training_did_not_write_is_named(
    logged: Run, tmp_path: Path, log: str, key: str, value: Any
) -> None:
    number = 0 if log == "events" else 1
    run = changed(logged, tmp_path / "run", log, number, key, value)
    for read in (explain, monitored):
        with pytest.raises(
            FileDamaged, match=rf"{log}\.jsonl is not as it was written: record {number + 1}, "
        ) as error:
            read(run)
        assert "restore it from a copy" in str(error.value) and "\n" not in str(error.value)
    if log in ("steps", "events"):
        with pytest.raises(FileDamaged, match=rf"{log}\.jsonl is not as it was written"):
            prove_remedies(run, 3)


def test_losses_that_were_not_finite_are_read(logged: Run, tmp_path: Path) -> None:
    run = changed(logged, tmp_path / "run", "metrics", 1, "loss", None)
    assert explain(run).data["cause"]
    run.log_path("steps").unlink()
    assert explain(run).data["cause"] and max(logged_losses(read_history(run))) == float("inf")


def test_parts_that_changed_in_training_keep_their_columns(logged: Run, tmp_path: Path) -> None:
    run = changed(logged, tmp_path / "run", "steps", 1, "update_norms", [[1.0, 2.0], [3.0, None]])
    path = run.log_path("steps")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[1] |= {"parts": ["layer 0", "new"]}
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records[:2]))
    series = read_history(run).series
    assert series["update norm", "layer 0"].tolist()[2:] == [1.0, 3.0]
    assert series["update norm", "new"].tolist()[2] == 2.0 and series["update norm", "embed"].tolist()[2:] != [1.0, 3.0]


def test_a_run_without_its_tokenizer_or_planned_steps_is_explained(tmp_path: Path, tiny: Recipe) -> None:
    recipe = tiny.with_set({"initialisation": "Normal(std=4.0)"})
    run = Run.create(tmp_path / "run", recipe.to_toml())
    for _ in Trainer.start(recipe, run):
        pass
    with run.log("events") as log:
        log.append({"step": 12, "time": 1.0, "kind": "nonfinite", "message": ""})
    (run.path / "tokenizer.json").unlink()
    (run.path / "recipe.toml").write_text(run.recipe.replace("steps = 12", ""))
    finding = explain(Run.open(run.path))
    assert finding.data["cause"] == "initialisation" and any("tokenizer.json" in note for note in finding.notes)
