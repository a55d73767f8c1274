"""A third party's objective, optimiser and schedule, defined outside the package, train as ours do."""

from __future__ import annotations

import sys

import own_parts
import pytest
import torch
from test_resume import fingerprint
from tiny_training import tiny_recipe

from cloche.errors import ClocheError
from cloche.runs import verify
from cloche.train import Recipe, Trainer

OWN = {"objective": "Confident(penalty=0.1)", "optimizer": "Sign(lr=0.002)", "schedule": "Steps()"}


def test_they_train_log_save_and_resume_to_the_same_bytes(new_run):
    recipe = tiny_recipe(**OWN)
    straight, broken = new_run("straight", recipe), new_run("broken", recipe)
    list(Trainer.start(recipe, straight))
    metrics = [record for record in straight.read_log("metrics") if "loss" in record]
    assert {"entropy", "lr", "lr_all"} <= set(metrics[0])
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert [r["lr"] for r in metrics] == pytest.approx([0.002, 0.002, 0.0002, 0.0002])
    assert 'part = "own_parts:Sign"' in straight.recipe
    trainer = Trainer.start(recipe, broken)
    for record in trainer:
        if record["step"] == 10:
            trainer.stop()
    list(Trainer.resume(broken))
    assert fingerprint(broken) == fingerprint(straight)
    assert verify(broken.path).problems == []


def test_its_terms_are_weighted_as_it_says(tiny):
    net = tiny.model.build(0)
    batch = torch.randint(300, (2, 17), generator=torch.Generator().manual_seed(0))
    terms = own_parts.Confident(penalty=0.5).terms(net, batch)
    assert list(terms) == ["loss", "entropy"] and terms["entropy"].weight == 0.5
    assert 4.0 < terms["entropy"].value.item() < 5.71, "nearly log 300 at the start"


def test_what_a_runs_recipe_names_is_never_imported(new_run, tmp_path, monkeypatch):
    """Neither its imports nor the module in a part's name: only a person's word imports."""
    (tmp_path / "planted_parts.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = tiny_recipe(run__steps=2)
    run = new_run("run", recipe)
    list(Trainer.start(recipe, run))
    text = run.recipe.replace("imports = []", 'imports = ["planted_parts"]')
    run.write_bytes("recipe.toml", text.encode())
    Trainer.resume(run, {"run.steps": "4"})
    run.write_bytes("recipe.toml", text.replace('part = "Muon"', 'part = "planted_parts:Muon"').encode())
    with pytest.raises(ClocheError, match="--import planted_parts") as caught:
        Trainer.resume(run, {"run.steps": "4"})
    assert caught.value.code == "PART-UNKNOWN"
    with pytest.raises(ClocheError, match="--import planted_parts"):  # the file of a run, even where a person names it
        Recipe.load(run.path / "recipe.toml", with_imports=True)
    assert Recipe.parse(text).imports == ["planted_parts"]
    assert "planted_parts" not in sys.modules and not (tmp_path / "ran").exists()


def test_a_recipe_file_named_by_a_person_imports(tmp_path, monkeypatch):
    (tmp_path / "named_parts.py").write_text("import own_parts\nclass Mine(own_parts.Sign): pass\n")
    (tmp_path / "own.toml").write_text('imports = "named_parts"\noptimizer = "named_parts:Mine(0.5)"\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ClocheError, match="--import named_parts"):
        Recipe.load(tmp_path / "own.toml")
    assert Recipe.load(tmp_path / "own.toml", with_imports=True).optimizer.lr == 0.5
    (tmp_path / "own.toml").write_text('imports = "named_parts"\noptimizer = "named_parts:Nobody"\n')
    with pytest.raises(ClocheError, match="named_parts has no Optimizer of that name"):
        Recipe.load(tmp_path / "own.toml", with_imports=True)
    (tmp_path / "own.toml").write_text("imports = 3\n")
    with pytest.raises(ClocheError, match="imports"):
        Recipe.load(tmp_path / "own.toml", with_imports=True)
