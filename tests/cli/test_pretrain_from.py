"""`cloche pretrain --from`: a run that begins with another model's weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import foreign_model
import pytest
import torch
from tiny_run import TINY

import cloche
from cloche.runs import Run

Call = Callable[..., tuple[int, str, str]]
SETS = [*(each for each in TINY if not each.startswith(("model.", "tokenizer.", "run.steps"))), "run.steps=6"]


@pytest.fixture
def adopted(call: Call, tmp_path: Path) -> Path:
    model = foreign_model.write(tmp_path / "model")
    assert call("adopt", model, "--out", tmp_path / "adopted", "--json")[0] == 0
    return tmp_path / "adopted"


def pretrained(call: Call, model: Path, out: Path, text: Path, *words: object) -> Run:
    code, said, err = call("pretrain", "--from", model, "--out", out, "--data", text, *words, "--set", *SETS, "--json")
    assert code == 0, err
    assert json.loads(said)["finished"]
    return Run.open(out)


@pytest.mark.parametrize("kind", ["an adopted run", "a folder"])
def test_it_begins_with_the_weights_of_the_model(
    call: Call, adopted: Path, tmp_path: Path, text: Path, kind: str
) -> None:
    model = adopted if kind == "an adopted run" else tmp_path / "model"
    run = pretrained(call, model, tmp_path / "new", text)
    theirs, first, last = cloche.load(model), cloche.load(run, 0), cloche.load(run)
    assert torch.equal(theirs.run("the cat sat").logits, first.run("the cat sat").logits)
    assert not torch.equal(theirs.run("the cat sat").logits, last.run("the cat sat").logits)
    assert last.net.spec.resolved() == theirs.net.spec.resolved()  # 300 rows, where the tokenizer has fewer tokens
    parent = run.info["parent"]
    assert parent["run"] == str(model) and parent["checkpoint"] == ("step-000000" if model == adopted else "")
    assert call("verify", run.path)[0] == 0


def test_a_run_goes_on_without_its_parent(call: Call, adopted: Path, tmp_path: Path, text: Path) -> None:
    run = pretrained(call, adopted, tmp_path / "new", text)
    shutil.rmtree(adopted)
    code, _, err = call("resume", run.path, "--set", "run.steps=8")
    assert code == 0 and run.checkpoint("last").step == 8, err


def test_what_cannot_be_begun_from_leaves_nothing(call: Call, adopted: Path, tmp_path: Path, text: Path) -> None:
    new = tmp_path / "new"
    code, _, err = call("pretrain", "--from", adopted, "--out", new, "--data", text, "--width", 64)
    assert code == 1 and "--from takes the model as it is" in err and not new.exists()
    for setting in ("model.norm.eps=0.1", "tokenizer.vocab=400", "model.body.depth=1"):
        code, _, err = call("pretrain", "--from", adopted, "--out", new, "--data", text, "--set", setting)
        assert code == 1 and "--from takes the model as it is" in err and not new.exists()
    (tmp_path / "mine.toml").write_text("[model]\nwidth = 96\n")
    code, _, err = call("pretrain", tmp_path / "mine.toml", "--from", adopted, "--out", new, "--data", text)
    assert code == 1 and "of the recipe file differs: leave it out" in err and not new.exists()
    code, _, err = call("pretrain", "--from", tmp_path / "nowhere", "--out", new, "--data", text)
    assert code == 1 and "There is no folder" in err and not new.exists()
