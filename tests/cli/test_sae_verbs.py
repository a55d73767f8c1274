"""`cloche sae` on a tiny run: trained, measured, read; and what cannot be."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloche.files import locked
from cloche.runs import Run
from cloche.sparse import load_sae
from cloche.sparse.saes import Fit, SaveState

Call = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("kernels")
SMALL = ("--features", 96, "--l0", 4, "--tokens", 6_000)


@pytest.fixture
def run(grown: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(grown, tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["topk", "BatchTopK(nested=[32, 64])"])
def test_a_dictionary_is_trained_measured_and_read(call: Call, run: Path, kind: str) -> None:
    code, _, err = call("sae", "train", run, "--site", "resid_post[1]", "--kind", kind, *SMALL)
    assert code == 0, err
    sae = load_sae(run / "dictionaries" / "resid_post_1")
    assert (sae.features, sae.trained_on.site, sae.trained_on.checkpoint) == (96, "resid_post[1]", "step-000012")
    code, out, err = call("sae", "report", run, "resid_post_1", "--tokens", 2_000)
    assert code == 0, err
    (kept,) = Run.open(run).findings("dictionary")
    assert kept["summary"] in out and "OMP, same atoms" in out and "null" in out
    assert kept["data"]["dictionary"] == "resid_post_1"
    code, out, err = call("sae", "report", run, "resid_post_1", "--tokens", 2_000, "--json")
    found = json.loads(out)
    assert code == 0 and found["dictionary"] == kept["data"], err
    assert found["sparse-probing"]["dictionary"] == "resid_post_1" and len(found["activation-density"]["sites"]) == 4
    assert {path.name for path in (run / "findings").iterdir()} == {
        "dictionary",
        "activation-density",
        "sparse-probing",
    }
    before = (run / "dictionaries/resid_post_1/dictionary.safetensors").read_bytes()
    code, out, err = call("sae", "features", run, "resid_post_1", "--count", 3, "--tokens", 2_000)
    assert code == 0 and out.count(", promotes ") == 3, err
    (read,) = Run.open(run).findings("features")
    assert read["summary"] in out
    every_feature_opens(run, read, sae.features)
    code, _, err = call("sae", "train", run, "--site", "resid_post[1]", *SMALL)
    assert code == 1 and "nothing is overwritten" in err
    assert (run / "dictionaries/resid_post_1/dictionary.safetensors").read_bytes() == before


def every_feature_opens(run: Path, read: dict[str, Any], count: int) -> None:
    """The microscope's worker gives a page for each number: of a listed feature what the finding says of it."""
    from cloche.microscope.serving import worker

    asked = {"checkpoint": str(run / "checkpoints/step-000012"), "dictionary": "resid_post_1"}
    asked["tokens"] = read["data"]["tokens_seen"]
    pages = [worker.answer({"id": 1, "ask": "feature", **asked, "feature": i}) for i in range(count)]
    assert [page["ok"]["id"] for page in pages] == list(range(count))
    assert {page["ok"]["tokens_seen"] for page in pages} == {asked["tokens"]}
    for feature in read["data"]["features"]:
        page = pages[feature["id"]]["ok"]
        assert page["examples"][0]["tokens"] == feature["examples"][0]["tokens"]
        assert page["density"] == pytest.approx(feature["density"])
        assert all(0 <= near < count for near, _ in page["neighbours"])
    assert "has 96, from 0 on" in worker.answer({"id": 2, "ask": "feature", **asked, "feature": count})["error"]
    (run / "dictionaries/resid_post_1/leak").symlink_to("/etc/hostname")
    worker.reader.cache_clear()
    assert "outside" in worker.answer({"id": 3, "ask": "feature", **asked, "feature": 0})["error"]
    (run / "dictionaries/resid_post_1/leak").unlink()


@pytest.mark.parametrize(
    ("site", "name", "options"),
    [
        ("mlp_in[1] -> mlp_out[1]", "mlp_in_1_mlp_out_1", ("--skip",)),
        ("resid_post[0] + resid_post[1]", "resid_post_0_resid_post_1", ()),
        ("resid_post[1] + step-000004/resid_post[1]", "resid_post_1_step_000004_resid_post_1", ()),
        ("resid_post[0]", "resid_post_0", ("--end-to-end", "0.2")),
    ],
)
def test_every_route_is_trained_measured_and_read(call: Call, run: Path, site: str, name: str, options) -> None:
    code, _, err = call("sae", "train", run, "--site", site, *SMALL, *options)
    assert code == 0, err
    assert load_sae(run / "dictionaries" / name).trained_on.site == site
    code, out, err = call("sae", "report", run, name, "--tokens", 2_000, "--probe", 0)
    assert code == 0 and "put back, the model keeps" in out, err
    code, out, err = call("sae", "features", run, name, "--count", 3, "--tokens", 2_000)
    assert code == 0 and out.count(", promotes ") > 0, err


def test_a_training_cut_off_goes_on_to_the_same_bytes(call: Call, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("sae", "train", run, "--site", "resid_post[1]", *SMALL, "--name")
    assert call(*words, "whole")[0] == 0
    step, done = Fit.step, []

    def killed(self: Fit, *rows):
        if len(done) == 17:
            raise KeyboardInterrupt
        done.append(0)
        return step(self, *rows)

    monkeypatch.setattr(Fit, "step", killed)
    monkeypatch.setattr(SaveState.__init__, "__defaults__", (5,))
    assert call(*words, "cut")[0] == 130
    folder = run / "dictionaries"
    assert not (folder / "cut").exists() and list(folder.glob(".training-cut-*"))
    monkeypatch.setattr(Fit, "step", step)
    assert call(*words, "cut")[0] == 0
    whole, cut = ((folder / name / "dictionary.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut and sorted(p.name for p in folder.iterdir()) == ["cut", "whole"]


def test_two_commands_do_not_train_one_dictionary(call: Call, run: Path) -> None:
    with locked(run / ".lock-dictionary-mine", 0):
        code, _, err = call("sae", "train", run, "--name", "mine", *SMALL)
    assert code == 1 and err.count("\n") == 1
    assert "another process is training the dictionary mine" in err
    assert call("verify", run)[0] == 0


@pytest.mark.slow
def test_two_processes_under_torchrun_train_what_one_trains(call: Call, run: Path) -> None:
    # With seed 0 two features tie for a token's last place to the last bit, and rounding decides which one is active.
    words = ["sae", "train", str(run), "--site", "resid_post[1]", *map(str, SMALL), "--seed", "1", "--name"]
    assert call(*words, "one")[0] == 0
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "cloche",
    ]
    made = subprocess.run(
        [*launch, *words, "two"], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert made.returncode == 0, made.stderr
    one, two = (load_sae(run / "dictionaries" / name).state_dict() for name in ("one", "two"))
    for part, tensor in one.items():
        assert (tensor - two[part]).norm() <= 1e-5 * tensor.norm(), part
    assert not list((run / "dictionaries").glob(".*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "--kind", "wavelet"), "[--kind] names an unknown Kind 'wavelet'"),
        (("train", "--site", "resid_post[9]"), "resid_post[9]"),
        (("train", "--site", "resid_post[0] ->"), "is not a route"),
        (("train", "--site", "resid_post[0] + step-000099/resid_post[0]"), "step-000099"),
        (("train", "--site", "mlp_out[0]", "--skip"), "remove skip"),
        (("train", "--l0", "9000"), "l0 = 9000 is impossible"),
        (("train", "--features", "0"), "must be one or more"),
        (("train", "--name", "../away"), "without slashes"),
        (("report", "nothing"), "train one with `cloche sae train`"),
        (("features", "nothing"), "has no dictionary 'nothing'"),
        (("report",), "has no dictionary: train one with `cloche sae train"),
    ],
)
def test_misuse_gets_one_sentence(call: Call, run: Path, words: tuple[str, ...], said: str) -> None:
    verb, *rest = words
    code, _, err = call("sae", verb, run, *rest)
    assert (code, err.count("\n")) == (1, 1) and said in err
    assert not (run / "dictionaries").exists()


def test_a_probe_of_too_little_text_is_left_out_and_the_rest_is_kept(call: Call, run: Path) -> None:
    assert call("sae", "train", run, "--site", "resid_post[1]", *SMALL)[0] == 0
    code, out, err = call("sae", "report", run, "resid_post_1", "--tokens", 2_000, "--probe", 32)
    assert code == 0 and "left out: There is too little text to probe" in err and "put back, the model keeps" in out
    assert {path.name for path in (run / "findings").iterdir()} == {"dictionary", "activation-density"}
