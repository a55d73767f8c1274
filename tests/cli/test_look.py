"""`cloche look` and `cloche trace`: any instrument by name, its options from its signature, ours and a third party's."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import foreign_model
import pytest

from cloche import part_text
from cloche.drawing import Finding
from cloche.interp import instruments, options_of
from cloche.microscope.serving import worker
from cloche.runs import Run

Call = Callable[..., tuple[int, str, str]]
OWN = '''
"""A third party's instrument."""
from typing import Literal
from cloche.drawing import Finding, Provenance
from cloche.interp import Subject


def weight_size(subject: Subject, other: Subject | None = None, scale: float = 1.0, of: Literal["embed", "head"] = "embed",
                layers: tuple[int, ...] = (0,), signed: bool = False) -> Finding:
    """How large the weights are. By a norm."""
    net = (other or subject).net
    size = scale * float((net.embed.weight if of == "embed" else net.unembed_weight()).abs().mean())
    data = {"layers": list(layers), "signed": signed}
    return Finding(Provenance("weight-size", subject.checkpoint), f"They are {size:.3g}.", {"size": size}, data)


def not_an_instrument(subject: Subject) -> float:
    return 0.0
'''


@pytest.fixture
def run(grown: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(grown, tmp_path / "run"))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "weights_of_mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "weights_of_mine", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setattr(part_text, "imported", [])  # processes that later tests start must not look for it
    return "weights_of_mine"


def looked(call: Call, *words: object) -> dict:
    code, out, err = call("look", *words, "--json")
    assert code == 0, err
    (found,) = json.loads(out)["findings"]
    return found


def test_every_instrument_of_ours_is_found_with_its_options() -> None:
    known = instruments()
    assert {"logit-lens", "activation-density", "sparse-probing", "features", "dictionary"} <= set(known)
    assert "trace" not in known and "look-inside" not in known
    assert {name: option.default for name, option in options_of(known["logit-lens"]).items()} == {
        "prompt": None,
        "top": "10",
        "seed": "0",
    }


def test_a_finding_stays_in_the_run(call: Call, run: Path) -> None:
    code, out, err = call("look", run, "logit-lens", "prompt=def main", "top=3", "--checkpoint", "0")
    assert code == 0, err
    (kept,) = Run.open(run).findings("logit-lens")
    assert kept["checkpoint"] == "step-000000" and kept["data"]["prompt"] == "def main"
    assert {len(cell) for row in kept["data"]["top"] for cell in row} == {3}
    path = run / "findings" / "logit-lens" / f"{kept['id']}.json"
    assert kept["summary"] in out and out.rstrip().endswith(str(path))
    assert call("verify", run)[0] == 0
    found = looked(call, run, "logit_lens", "prompt=def main", "top=3", "--checkpoint", "0")
    assert found["id"] == kept["id"] and found["path"] == str(path)


def test_what_is_not_given_comes_from_the_run(call: Call, run: Path) -> None:
    assert len(looked(call, run, "logit-lens")["data"]["tokens"]) == 28
    density = looked(call, run, "activation-density", "windows=500", "also=mlp_in", "thresholds=0.05,0.2")
    assert density["data"]["criteria"] == ["not zero", "above 0.05 RMS", "above 0.2 RMS"]
    assert any(site["site"].startswith("mlp_in") for site in density["data"]["sites"])
    code, _, err = call("look", run, "features")
    assert code == 1 and "features reads a dictionary" in err and "cloche sae train" in err
    words = ("--features", 32, "--l0", 4, "--tokens", 1_000)
    assert call("sae", "train", run, "--site", "resid_post[1]", *words)[0] == 0
    found = looked(call, run, "features-report", "count=2", "windows=500")
    assert found["data"]["dictionary"] == "resid_post_1" and len(found["data"]["features"]) <= 2
    assert looked(call, run, "dictionary", "sae=resid_post_1", "windows=500")["data"]["dictionary"] == "resid_post_1"
    code, _, err = call("look", run, "dictionary", "sae=nope")
    assert code == 1 and "no dictionary 'nope': it has resid_post_1" in err


def test_several_prompts_are_several_findings(call: Call, run: Path) -> None:
    code, out, err = call("look", run, "logit-lens", "prompt=def ", "prompt=import os", "--json")
    assert code == 0, err
    assert [found["data"]["prompt"] for found in json.loads(out)["findings"]] == ["def ", "import os"]
    assert len(Run.open(run).findings("logit-lens")) == 2


def test_a_model_alone_is_looked_into_and_its_finding_printed(call: Call, tmp_path: Path) -> None:
    model = foreign_model.write(tmp_path / "model")
    before = foreign_model.state(model)
    assert looked(call, model, "logit-lens", "prompt=the cat")["path"] is None
    code, out, err = call("look", model, "logit-lens", "prompt=the cat", "--out", tmp_path / "found.json")
    assert code == 0 and "logit-lens of model" in out, err
    kept = Finding.of_record(json.loads((tmp_path / "found.json").read_text()))
    assert kept.data["prompt"] == "the cat" and kept.panels
    code, _, err = call("look", model, "logit-lens", "prompt=the cat", "--out", tmp_path / "found.json")
    assert code == 1 and "exists already" in err
    assert call("look", model, "activation-density", f"windows={_text(tmp_path)}")[0] == 0
    for words, said in (
        (("activation-density",), "needs windows=..."),
        (("activation-density", "windows=100"), "this model has no run"),
        (("features", "sae=x"), "make one with `cloche adopt`"),
    ):
        code, _, err = call("look", model, *words)
        assert code == 1 and said in err
    assert foreign_model.state(model) == before


def _text(folder: Path) -> Path:
    (folder / "text.txt").write_text(foreign_model.TEXT)
    return folder / "text.txt"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("logit-lense",), "no instrument 'logit-lense'; did you mean 'logit-lens'"),
        (("logit-lens", "promt=x"), "no option 'promt'; did you mean 'prompt'"),
        (("logit-lens", "prompt"), "write it as key=value"),
        (("logit-lens", "top=many"), "top='many' is not of the form INT"),
        (("sparse-probing", "labels=mine"), "labels= cannot be given as text"),
        (("activation-density", "windows=nowhere.txt"), "neither a number of held-out tokens nor a text file"),
        (("activation-density", "windows=0"), "windows=0 must be a whole number of at least 1"),
        (("ablation", "task=Add", "seed=-1"), "seed=-1 must be a whole number of at least 0"),
        (("ablation", "task=Add", f"pairs={10**20}"), "is not a number up to 9,223,372,036,854,775,807"),
        (("ablation", "task=Add", "pairs=1000000000"), "must be a whole number of at least 1 and at most 10,000"),
        (("ablation", "task=Add", "metric=Rank(of=1)"), "has no field 'of'; there are none"),
        (("manifold", "site=embed", "windows=99", "periods=nan"), "periods='nan' is not a number up to"),
        (("features", "sae=../../run"), "no dictionary '../../run'"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(call: Call, grown: Path, words: tuple[str, ...], said: str) -> None:
    code, _, err = call("look", grown, *words)
    assert code == 1 and said in err and err.count("\n") == 1 and not err.endswith("..\n") and "?." not in err


def test_options_are_listed_as_they_are_typed(call: Call, run: Path, own: str) -> None:
    out = call("look", run, "--import", own)[1]
    assert "    prompt=TEXT (needed, or from the run)\n    top=INT (by default 10)\n" in out
    assert "    windows=TOKENS|FILE (needed, or from the run)\n    thresholds=NUMBER,... (by default 0.01,0.1)\n" in out
    for line in ("other=RUN|MODEL", "of=embed|head (by default embed)", "layers=INT,... (by default 0)"):
        assert f"    {line}\n" in out
    assert "    signed=true|false (by default False)\n" in out
    assert "labels=" not in out, "what no text can give is not listed"
    assert not re.search(r"Sequence|Iterable|Mapping|Tensor|\bNone\b|\bint\b|\bstr\b", out)


def test_a_third_partys_instrument_is_one_like_ours(call: Call, run: Path, own: str) -> None:
    code, _, err = call("look", run, "weight-size")
    assert code == 1 and "no instrument 'weight-size'" in err
    code, out, err = call("look", run, "--import", own, "--json")
    (mine,) = [each for each in json.loads(out)["instruments"] if each["name"] == "weight-size"]
    assert mine["about"] == "How large the weights are."
    assert {option["name"]: option["default"] for option in mine["options"]}["layers"] == "0"
    options = ("scale=2", "of=head", "layers=1,2", "signed=yes", f"other={run / 'checkpoints/step-000000'}")
    found = looked(call, run, "weight-size", *options, "--import", own)
    assert found["data"] == {"layers": [1, 2], "signed": True} and found["figures"]["size"] > 0
    assert Run.open(run).findings("weight-size")[0]["id"] == found["id"]
    for option, said in (("of=body", "one of embed, head"), ("signed=perhaps", "not of the form true|false")):
        code, _, err = call("look", run, "weight-size", option, "--import", own)
        assert code == 1 and said in err
    asked = {"ask": "look", "checkpoint": str(run / "checkpoints/step-000000"), "options": {"scale": "2", "of": "head"}}
    assert worker.answer({"id": 1, "instrument": "weight-size", **asked})["ok"]["figures"]["size"] > 0
    refused = worker.answer({"id": 1, "instrument": "weight-size", **asked, "options": {"other": str(run)}})
    assert "only on the command line" in refused["error"]
    code, out, err = call("trace", run, "weight_size", "of=head", "--import", own, "--json")
    assert code == 0 and json.loads(out)["data"]["instrument"] == "weight-size", err


def test_a_trace_stays_in_the_run(call: Call, run: Path) -> None:
    code, out, err = call("trace", run, "logit-lens", "--figure", "entropy", "--json")
    assert code == 0, err
    found = json.loads(out)
    steps = [checkpoint.step for checkpoint in Run.open(run).checkpoints()]
    assert found["data"]["steps"] == steps and len(found["data"]["values"][0]) == 8
    (kept,) = Run.open(run).findings("trace")
    assert kept["summary"] == found["summary"] and "The figure 'entropy' of logit-lens" in kept["summary"]
    code, out, err = call("trace", run, "activation-density", "windows=600")
    assert code == 0 and "active of activation-density by step" in out, err
    model = run / "checkpoints" / "step-000000"
    code, _, err = call("trace", model, "logit-lens")
    assert code == 1 and "cloche adopt" in err


def test_a_task_is_named_or_a_file_and_what_is_needed_is_said(call: Call, grown: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(
        json.dumps({"prompt": "1+1=", "answer": "2", "corrupted": "1+2=", "corrupted_answer": "3"}) + "\n"
    )
    run = shutil.copytree(grown, tmp_path / "run")
    code, out, err = call(
        "look", run, "activation-patching", f"task={tmp_path / 'pairs.jsonl'}", "pairs=1", "site=z", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["findings"][0]["data"]["pairs"] == 1
    code, _, err = call("look", run, "activation-patching")
    assert code == 1 and "`cloche tasks list`" in err and "PromptPair(" in err
    code, _, err = call("look", run, "manifold")
    assert code == 1 and "needs site=..., such as resid_post[2]" in err
    listed = call("look", run)[1]
    assert "task=TASK(...) (needed)" in listed and "prompt=TEXT (needed, or from the run)" in listed
