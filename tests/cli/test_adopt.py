"""`cloche adopt`: a run of a model that was trained elsewhere, and every command on it."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import foreign_model
import pytest
import torch
from safetensors import safe_open

import cloche
from cloche.model import Learned, save_network
from cloche.runs import Run

Call = Callable[..., tuple[int, str, str]]
STEPS = ("step1000", "step-2000", "pythia-step30", "checkpoint-500")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign_model.write(tmp_path_factory.mktemp("model") / "hf")


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four revisions whose names state their steps in four ways, and a folder that is none."""
    folder = foreign_model.write_steps(tmp_path_factory.mktemp("steps"), STEPS)
    (folder / "notes").mkdir()
    return folder


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    for number in range(4):
        (tmp_path / f"text-{number}.txt").write_text(foreign_model.TEXT * 8)
    return tmp_path


def adopted(call: Call, model: Path, out: Path, *words: object) -> dict:
    code, said, err = call("adopt", model, "--out", out, *words, "--json")
    assert code == 0, err
    return json.loads(said)


def test_every_command_serves_an_adopted_model_and_its_source_stays(call: Call, model: Path, texts: Path) -> None:
    source = foreign_model.linked(model, texts / "cache")
    before = foreign_model.state(texts / "cache")
    made = adopted(call, source, texts / "run", "--data", *sorted(texts.glob("text-*.txt")))
    run = Run.open(texts / "run")
    assert made["checkpoints"] == ["step-000000"] and made["data"]
    assert not [path for path in run.path.rglob("*") if path.is_symlink()]
    said = run.adopted["revisions"][0]
    assert run.adopted["source"] == str(source) and said["revision"] == "0123abcd"
    assert said["sha256"] == {"model.safetensors": before[os.path.relpath(_blob(source), texts / "cache")][0]}
    assert call("verify", run.path)[0] == 0
    code, out, err = call("generate", run.path, "the cat", "--new", 4)
    assert code == 0 and out.startswith("the cat"), err
    words = ("--features", 32, "--l0", 4, "--tokens", 1_000)
    assert call("sae", "train", run.path, "--site", "resid_post[0]", *words)[0] == 0
    assert call("sae", "features", run.path, "resid_post_0", "--count", 2, "--tokens", 1_000)[0] == 0
    assert call("report", run.path)[0] == 0
    assert call("verify", run.path)[0] == 0
    assert foreign_model.state(texts / "cache") == before, "nothing wrote into a file that is linked"


def test_the_report_looks_into_an_adopted_run(call: Call, model: Path, texts: Path) -> None:
    adopted(call, model, texts / "run", "--data", *sorted(texts.glob("text-*.txt")))
    code, _, err = call("report", texts / "run", "--look")
    assert code == 0, err
    run = Run.open(texts / "run")
    assert run.findings("features") and run.findings("logit-lens")[0]["data"]["prompt"].startswith("the cat sat on")
    (trained,) = (run.path / "dictionaries").glob("[!.]*/")
    assert "What each layer would say next" in (run.path / "report.html").read_text()
    assert call("verify", run.path)[0] == 0 and trained.name == "resid_post_0"


def test_without_text_the_sentence_says_how_to_give_some(call: Call, model: Path, tmp_path: Path) -> None:
    adopted(call, model, tmp_path / "run")
    for words in (("sae", "train", tmp_path / "run"), ("look", tmp_path / "run", "logit-lens")):
        code, _, err = call(*words)
        assert code == 1 and err.count("\n") == 1 and "`cloche adopt --data`" in err


def _blob(source: Path) -> Path:
    return (source / "model.safetensors").resolve()


def test_the_model_is_the_same_one(call: Call, model: Path, tmp_path: Path) -> None:
    adopted(call, model, tmp_path / "run")
    ours, theirs = cloche.load(tmp_path / "run"), cloche.load(model)
    assert torch.equal(ours.run("the cat sat").logits, theirs.run("the cat sat").logits)
    assert ours.checkpoint == "step-000000" and ours.net.context == theirs.net.context == 64


def test_it_says_how_the_weights_came_and_copies_when_asked(call: Call, model: Path, tmp_path: Path) -> None:
    weights = model / "model.safetensors"
    taken = {t["how"]: t for t in adopted(call, model, tmp_path / "linked")["taken"]}
    shared = taken.get("hard link") or taken.get("reflink") or taken["copy"]
    assert shared["bytes"] >= weights.stat().st_size
    inside = Path("checkpoints/step-000000/model.safetensors")
    assert (tmp_path / "linked" / inside).samefile(weights) == ("hard link" in taken)
    (copied,) = adopted(call, model, tmp_path / "copied", "--copy")["taken"]
    assert copied["how"] == "copy" and copied["files"] == 2
    assert not (tmp_path / "copied" / inside).samefile(weights)
    assert (tmp_path / "copied" / inside).read_bytes() == weights.read_bytes()
    code, out, err = call("adopt", model, "--out", tmp_path / "said", "--copy")
    assert code == 0 and re.search(r"2 files of [\d,]+ bytes copied", out + err)


def test_a_folder_of_revisions_is_a_run_of_their_steps(call: Call, steps: Path, tmp_path: Path) -> None:
    made = adopted(call, steps, tmp_path / "all")
    assert made["checkpoints"] == ["step-000030", "step-000500", "step-001000", "step-002000"]
    run = Run.open(tmp_path / "all")
    assert [r["revision"] for r in run.adopted["revisions"]] == [
        "pythia-step30",
        "checkpoint-500",
        "step1000",
        "step-2000",
    ]
    for revision in run.adopted["revisions"]:
        ours, theirs = cloche.load(run, revision["checkpoint"]), cloche.load(steps / revision["revision"])
        assert torch.equal(foreign_model.weights_of(ours), foreign_model.weights_of(theirs))
    assert call("verify", run.path)[0] == 0
    some = adopted(call, steps, tmp_path / "some", "--revisions", "step1000", "pythia-step30=7")
    assert some["checkpoints"] == ["step-000007", "step-001000"]


def test_revisions_share_the_tokenizer_above_them(call: Call, steps: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(steps, tmp_path / "steps"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.move(folder / STEPS[0] / name, folder / name)
        for step in STEPS[1:]:
            (folder / step / name).unlink()
    adopted(call, folder, tmp_path / "run")
    assert isinstance(cloche.load(tmp_path / "run", 500).generate("the cat", new=2), str)


def refused(call: Call, out: Path, *words: object) -> str:
    """The sentence, and that nothing was made."""
    before = sorted(out.parent.rglob("*")) if out.parent.exists() else None
    code, _, err = call("adopt", *words, "--out", out)
    assert code == 1 and err.count("\n") == 1, err
    assert (sorted(out.parent.rglob("*")) if out.parent.exists() else None) == before
    return err


def test_what_cannot_be_adopted_leaves_nothing(call: Call, model: Path, steps: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "new"
    assert "There is no folder" in refused(call, out, tmp_path / "nowhere")
    assert "has no step: add it" in refused(call, out, steps, "--revisions", "notes")
    assert "no model folder step9: choose from pythia-step30" in refused(call, out, steps, "--revisions", "step9")
    both = ("--revisions", "step1000", "step-2000=1000")
    assert "step1000 and step-2000 both have step 1,000" in refused(call, out, steps, *both)
    broken = Path(shutil.copytree(model, tmp_path / "broken"))
    (broken / "tokenizer.json").rename(tmp_path / "aside.json")
    assert "has no tokenizer.json" in refused(call, out, broken)
    (tmp_path / "aside.json").rename(broken / "tokenizer.json")
    weights, config = broken / "model.safetensors", broken / "config.json"
    weights.chmod(0o644)
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4])
    assert "damaged or cut short" in refused(call, out, broken)
    weights.write_bytes(whole[:-4] + b"\0\0\xc0\x7f")
    assert "holds NaN" in refused(call, out, broken)
    weights.write_bytes(whole)
    config.chmod(0o644)
    config.write_text(json.dumps({"model_type": "mamba"}))
    assert "model_type 'mamba' is not one cloche reads" in refused(call, out, broken)


def test_text_that_cannot_be_packed_leaves_nothing(call: Call, model: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("")
    assert "The corpus is empty" in refused(call, tmp_path / "run", model, "--data", tmp_path / "short.txt")
    assert "There is no file" in refused(call, tmp_path / "run", model, "--data", tmp_path / "nowhere.txt")


def test_the_same_weights_twice_are_one_revision(call: Call, model: Path, tmp_path: Path) -> None:
    for name in ("step1", "step2"):
        shutil.copytree(model, tmp_path / "steps" / name)
    assert "step1 and step2 have the same weights" in refused(call, tmp_path / "run", tmp_path / "steps")
    once_again = ("--revisions", "step1", "step1=4")
    assert "step1 and step1 have the same weights" in refused(call, tmp_path / "run", tmp_path / "steps", *once_again)


def test_a_shard_that_is_called_like_a_file_of_the_run_is_refused_and_stays(
    call: Call, model: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(model, tmp_path / "step7")
    weights = folder / "model.safetensors"
    with safe_open(weights, "pt") as file:
        named = dict.fromkeys(file.keys(), "manifest.json")
    before = weights.rename(folder / "manifest.json").read_bytes()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
    assert "names of .safetensors files" in refused(call, tmp_path / "run", folder)
    assert (folder / "manifest.json").read_bytes() == before


def test_what_others_have_written_stays(call: Call, model: Path, grown: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert "files that do not belong to a run" in refused(call, tmp_path / "mine", model)
    assert "already holds a run" in refused(call, grown, model)
    assert "is already a run" in refused(call, tmp_path / "run", grown)
    (tmp_path / "empty").mkdir()
    assert adopted(call, model, tmp_path / "empty")["checkpoints"] == ["step-000000"]


def test_a_model_larger_than_memory_is_one_sentence(call: Call, model: Path, tmp_path: Path) -> None:
    """Most of a terabyte of weights, all of it a hole in the file."""
    spec = replace(foreign_model.SPEC, vocab=2**31 - 1, width=64)
    with torch.device("meta"):
        shapes = {name: list(parameter.shape) for name, parameter in spec.build(None).named_parameters()}
    tensors, end = {}, 0
    for name, shape in shapes.items():
        tensors[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + 4 * math.prod(shape)]}
        end += 4 * math.prod(shape)
    header = json.dumps(tensors).encode()
    folder = Path(shutil.copytree(model, tmp_path / "large"))
    (folder / "model.safetensors").unlink()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
    (folder / "config.json").chmod(0o644)
    (folder / "config.json").write_text(json.dumps({"model_type": "cloche", "cloche": spec.to_dict()}))
    said = refused(call, tmp_path / "run", folder)
    assert f"which take {end / 1e9:,.1f} GB in memory, and this machine has" in said


# ---- where a run is needed


@pytest.mark.parametrize("words", ["open", "report", "verify", "resume", "sae train", "sae report"])
def test_a_command_that_needs_a_run_names_the_one_that_makes_it(
    call: Call, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    name = ("resid_post_0",) if words == "sae report" else ()
    code, _, err = call(*words.split(), model, *name)
    assert code == 1 and "is a model and not a run" in err
    command = shlex.split(err.strip().rpartition(": ")[2])
    assert command[:2] == ["cloche", "adopt"] and call(*command[1:])[0] == 0
    assert Run.open(command[-1]).adopted is not None
    if words in ("report", "verify"):
        assert call(*words.split(), command[-1])[0] == 0


def test_an_adopted_run_is_not_resumed(call: Call, model: Path, tmp_path: Path) -> None:
    adopted(call, model, tmp_path / "run")
    before = foreign_model.state(tmp_path / "run" / "checkpoints")
    code, _, err = call("resume", tmp_path / "run")
    assert code == 1 and err.count("\n") == 1 and f"cloche pretrain --from {tmp_path / 'run'} --out" in err
    assert foreign_model.state(tmp_path / "run" / "checkpoints") == before


def test_verify_finds_what_is_changed_and_misses_no_recipe(call: Call, model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    adopted(call, model, run, "--copy")
    (run / "manifest.json").rename(tmp_path / "manifest.json")
    code, out, _ = call("verify", run)
    assert code == 1 and "recipe.toml" not in out and "manifest.json" in out
    (tmp_path / "manifest.json").rename(run / "manifest.json")
    weights = run / "checkpoints" / "step-000000" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    code, out, _ = call("verify", run)
    assert code == 1 and out.splitlines() == [out.strip()] and "sha256 differs" in out


def test_generate_takes_a_model_too(call: Call, model: Path) -> None:
    code, out, err = call("generate", model, "the cat", "--new", 4, "--json")
    assert code == 0 and json.loads(out)["prompt"] == "the cat", err


def test_generate_refuses_more_than_the_model_has_positions(call: Call, model: Path, tmp_path: Path) -> None:
    """A model without positions of its own goes on, with a note of where it was trained (test_stages)."""
    glass = cloche.load(model)
    net = replace(glass.net.spec, position=Learned(12)).build(0)
    save_network(net, tmp_path / "short")
    shutil.copy(model / "tokenizer.json", tmp_path / "short")
    code, out, err = call("generate", tmp_path / "short", "the cat", "--new", 9999)
    assert (code, out) == (1, "") and re.search(
        "and 9999 new ones are more than the 12 positions this model has; ask for", err
    )


def test_a_revision_on_the_hub_is_a_checkpoint(
    call: Call, steps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the Hub's own library, offline: its cache holds two branches of one model."""
    constants = pytest.importorskip("huggingface_hub.constants")
    home = tmp_path / "hub" / "models--owner--name"
    for name in STEPS[:2]:
        commit = f"{name.strip('step-'):0>40}"
        shutil.copytree(steps / name, home / "snapshots" / commit)
        (home / "refs").mkdir(exist_ok=True)
        (home / "refs" / name).write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    made = adopted(call, "owner/name", tmp_path / "run", "--revisions", *STEPS[:2])  # type: ignore[arg-type]
    assert made["source"] == "hf://owner/name" and made["checkpoints"] == ["step-001000", "step-002000"]
    (first, _) = Run.open(tmp_path / "run").adopted["revisions"]
    assert first["revision"] == "step1000" and first["commit"] == f"{'1000':0>40}"
    code, _, err = call("open", "owner/name")
    assert code == 1 and err.strip().endswith("cloche adopt owner/name --out runs/name")
