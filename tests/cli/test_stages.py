"""Runs from the command line: trained, stopped anywhere, resumed, and used."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_run import TINY, weights

from cloche.cli import progress
from cloche.runs import Run
from cloche.train import Recipe

Call = Callable[..., tuple[int, str, str]]


def test_pretrain_sums_up_as_json(call: Call, tmp_path: Path, text: Path) -> None:
    code, out, err = call("pretrain", "--out", tmp_path / "run", "--json", "--data", text, "--set", *TINY)
    assert code == 0, err
    result = json.loads(out)
    assert (result["step"], result["finished"], result["checkpoint"]) == (12, True, "step-000012")
    assert 0 < result["val_bpb"] < 20
    assert "growing" in err, "progress goes to stderr, so that stdout is JSON alone"
    run = Run.open(result["run"])
    assert run.info["commands"][0][0] == "cloche"
    assert str(text) in run.recipe, "absolute, so that resume works from any folder"
    assert call("verify", run.path)[0] == 0


def test_a_run_is_not_grown_twice(call: Call, grown: Path, text: Path) -> None:
    before = weights(grown)
    code, _, err = call("pretrain", "--out", grown, "--data", text)
    assert (code, err.count("\n")) == (1, 1)
    assert "already holds a run" in err
    code, _, err = call("resume", grown)
    assert (code, err.count("\n")) == (1, 1)
    assert "finished its 12 steps" in err
    assert weights(grown) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--data", "nowhere"), "nowhere"),
        (("--set", "run.stepz=4"), "did you mean steps"),
        (("--set", "model.width=33"), "33"),
        (("norecipe.toml",), "there is no recipe at norecipe.toml"),
        ((".",), "put --data before files to read"),
        (("book.txt",), "put --data before files to read"),
        (("one.txt", "two.txt", "three.txt"), "one.txt and 2 more are text"),
        (("books/one", "books/two"), "put --data before files to read"),
        (("--minutes", "-1"), "--minutes is -1"),
        (("--minutes", "nan"), "--minutes is nan"),
    ],
)
def test_what_cannot_be_grown_leaves_no_folder(call: Call, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    code, out, err = call("pretrain", *words, "--out", tmp_path / "run")
    assert (code, err.count("\n")) == (1, 1), out + err
    assert said in err
    assert not (tmp_path / "run").exists()


def test_an_edit_that_is_refused_prints_no_prompt(call: Call, grown: Path) -> None:
    code, out, err = call("generate", grown, "def ", "--edit", "mlp_out[99].zero()")
    assert (code, out) == (1, "") and "no mlp_out[99]" in err


def test_a_run_too_short_for_equations_says_how_to_log_more(call: Call, grown: Path) -> None:
    code, _, err = call("sindy", grown)
    assert (code, err.count("\n")) == (1, 1)
    assert str(grown) in err and "log.every=1" in err


def test_generate_goes_on_from_the_prompt(call: Call, grown: Path) -> None:
    code, out, err = call("generate", grown, "def ", "--new", 12, "--json")
    assert code == 0, err
    first = json.loads(out)
    assert (first["prompt"], first["checkpoint"]) == ("def ", "step-000012")
    assert 0 < len(first["ids"]) <= 12
    assert call("generate", grown, "def ", "--new", 12)[1] == f"def {first['text']}\n"
    assert json.loads(call("generate", grown, "def ", "--new", 12, "--json")[1]) == first
    other = json.loads(call("generate", grown, "def ", "--new", 12, "--json", "--seed", 1)[1])
    assert other["ids"] != first["ids"]
    greedy = ("generate", grown, "def ", "--new", 12, "--json", "--temperature", 0)
    early, late = (json.loads(call(*greedy, "--checkpoint", step)[1]) for step in (0, "last"))
    assert early["checkpoint"] == "step-000000" and early["ids"] != late["ids"]
    assert call("generate", grown, "--new", 3)[0] == 0, "without a prompt it begins a text"
    long = ("generate", grown, "def ", "--new", 40)  # the run's texts are of 32 tokens
    (note,) = json.loads(call(*long, "--json")[1])["notes"]
    assert call(*long)[2] == f"{note}\n" and "than the 32 that this model was trained on" in note


def test_generate_under_an_edit(call: Call, grown: Path) -> None:
    greedy = ("generate", grown, "import ", "--new", 8, "--json", "--temperature", 0)
    plain = json.loads(call(*greedy)[1])
    kept = json.loads(call(*greedy, "--edit", "mlp_out[0].scale(1)")[1])
    assert kept["ids"] == plain["ids"]
    silenced = json.loads(call(*greedy, "--edit", "final_norm.zero()")[1])
    assert silenced["ids"] == [], "with nothing to read, every logit is equal, and the first id ends the text"
    code, _, err = call(*greedy, "--edit", "mlp_out[9].zero()")
    assert (code, err.count("\n")) == (1, 1)


def test_an_interrupt_while_data_is_prepared_is_resumed(
    call: Call, tmp_path: Path, text: Path, grown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C when half of the corpus is packed."""
    bar = progress.Screen.bar

    @progress.contextmanager
    def impatient(self: progress.Screen, title: str):
        with bar(self, title) as update:

            def stop(done: float, total: float, note: str) -> None:
                update(done, total, note)
                if note.startswith("packing") and done > total / 2:
                    raise KeyboardInterrupt

            yield stop

    with monkeypatch.context() as patch:
        patch.setattr(progress.Screen, "bar", impatient)
        code, _, err = call("pretrain", "--out", tmp_path / "run", "--data", text, "--set", *TINY)
    assert (code, err) == (130, f"Stopped; go on with: cloche resume {tmp_path / 'run'}\n")
    assert not (tmp_path / "run/data/data.json").exists()
    code, out, _ = call("resume", tmp_path / "run", "--json")
    assert (code, json.loads(out)["finished"]) == (0, True)
    assert weights(tmp_path / "run") == weights(grown)


@pytest.mark.slow
def test_ctrl_c_while_it_trains_saves_and_resume_ends_in_the_same_weights(
    call: Call, tmp_path: Path, text: Path
) -> None:
    steps = [*TINY, "run.steps=120"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert call("pretrain", "--out", whole, "--data", text, "--set", *steps)[0] == 0

    command = [sys.executable, "-c", "from cloche.cli import main; main()"]
    command += ["pretrain", "--out", str(stopped), "--data", str(text), "--set", *steps]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as trainer:
        _wait_for_step(stopped, 4, trainer)
        os.kill(trainer.pid, signal.SIGINT)
        out, err = trainer.communicate()
    assert trainer.returncode == 130, err
    assert err.count("\n") == 1
    assert f"cloche resume {stopped}" in err and "topped at step" not in out, "it is said once"
    assert 4 <= Run.open(stopped).checkpoint("last").step < 120
    assert call("verify", stopped)[0] == 0

    assert call("resume", stopped)[0] == 0
    assert weights(stopped) == weights(whole)


def _wait_for_step(run: Path, step: int, trainer: subprocess.Popen[str]) -> None:
    while trainer.poll() is None:
        if (run / "run.json").exists() and any(r["step"] >= step for r in Run.open(run).read_log("metrics")):
            return
        time.sleep(0.02)
    pytest.fail(f"the run ended before step {step}: {trainer.stderr.read() if trainer.stderr else ''}")


def test_verify_finds_damage_in_a_real_run(call: Call, grown: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(grown, tmp_path / "copy")
    shard = copy / "data" / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2] + b"\xff\xff")
    code, out, _ = call("verify", copy)
    assert (code, out.count("\n")) == (1, 1)
    assert out.startswith("data/train-00000.bin")


def test_doctor_reports(call: Call) -> None:
    code, out, _ = call("doctor", "--json")
    report = json.loads(out)
    checks = {check["name"]: check["value"] for check in report["checks"]}
    assert code == (0 if report["ok"] else 1)
    assert checks["cores"] >= 1
    assert checks["fp32 GEMM (GFLOP/s)"] > 0
    assert checks["trains in"] in ("fp32", "bf16")


@pytest.mark.slow
def test_demo_grows_and_looks_and_a_lost_look_is_made_again_by_resume(call: Call, tmp_path: Path, text: Path) -> None:
    """The demo leaves everything; what an interrupt during the looking stage would leave is completed, nothing retrained."""
    code, out, err = call("demo", "--out", tmp_path / "first", "--data", text, "--set", *TINY, "evaluate.look=true")
    assert code == 0, err
    run = Run.open(tmp_path / "first")
    assert (len(run.findings("features")), len(run.findings("logit-lens"))) == (1, 1)
    assert run.findings("features")[0]["checkpoint"] == "step-000012"
    assert (run.path / "report.html").stat().st_size > 10_000
    assert f"cloche open {run.path}" in out
    prompts = Recipe.parse(run.recipe).evaluate.prompts
    assert f"cloche generate {run.path} {shlex.quote(prompts[0])}" in out
    assert call("verify", run.path)[0] == 0

    grown = weights(run.path)
    shutil.rmtree(run.path / "findings" / "logit-lens")
    (run.path / "report.html").unlink()
    events = len(run.read_log("events"))
    assert call("resume", run.path)[0] == 0
    assert len(run.findings("logit-lens")) == 1
    assert (run.path / "report.html").exists()
    assert (weights(run.path), len(run.read_log("events"))) == (grown, events)

    code, out, _ = call("demo", "--out", tmp_path / "first", "--data", text, "--set", *TINY, "evaluate.look=false")
    assert code == 0
    assert "first-2" in out
    assert Run.open(tmp_path / "first-2").checkpoint("last").step == 12


def test_a_finished_run_can_be_looked_into_later(call: Call, grown: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(grown, tmp_path / "copy")
    assert call("resume", copy, "--set", "evaluate.look=true")[0] == 0
    assert (copy / "report.html").exists()
    assert weights(copy) == weights(grown)


@pytest.mark.slow
def test_a_short_run_leaves_a_report_unless_told_not_to(call: Call, tmp_path: Path, text: Path) -> None:
    """Without a word about it, a dictionary, a lens and the page; what a kill during that stage took is made by resume."""
    unsaid = [word for word in TINY if "look" not in word]
    words = ("--data", text, "--json", "--set", *unsaid)
    code, out, err = call("pretrain", "--out", tmp_path / "run", *words)
    assert code == 0, err
    run = Run.open(tmp_path / "run")
    assert json.loads(out)["report"] == str(run.path / "report.html")
    assert len(run.findings("features")) == len(run.findings("logit-lens")) == 1
    prompts = Recipe.parse(run.recipe).evaluate.prompts
    assert prompts and all(prompt == prompt.strip() and len(prompt) <= 32 for prompt in prompts)
    assert {record["prompt"] for record in run.read_log("samples")} == set(prompts)
    lens = run.findings("logit-lens")[0]["data"]["prompt"]
    assert lens == lens.rstrip() and lens.startswith(prompts[0][:8])

    assert call("resume", run.path)[2].count("finished its 12 steps") == 1
    (run.path / "report.html").unlink()
    assert call("resume", run.path)[0] == 0 and (run.path / "report.html").exists()

    assert call("pretrain", "--out", tmp_path / "bare", "--no-report", *words)[0] == 0
    assert not (tmp_path / "bare" / "report.html").exists() and weights(tmp_path / "bare") == weights(run.path)


def test_doctor_examines_a_recipe_and_keeps_its_finding_in_a_run(
    call: Call, grown: Path, tmp_path: Path, monkeypatch
) -> None:
    from cloche.train import Forecast

    known = Forecast(1000, {"weights": 4e3}, "step", 4e8, 8e9, 0.01, {"flops": 1e6, "rate": 1e8, "fastest": 1e9}, 2)
    monkeypatch.setattr("cloche.diagnose.doctor.examine.forecast", lambda _: known)
    run = Path(shutil.copytree(grown, tmp_path / "copy"))
    code, out, err = call("doctor", run, "--json")
    assert (code, json.loads(out)["figures"]["problems"]) == (0, 0), err
    assert len(Run.open(run).findings("doctor")) == 1
    code, out, _ = call(
        "doctor", "--set", *[s for s in TINY if s.startswith(("model", "tokenizer"))], "model.head.cap=0.5"
    )
    assert code == 1
    assert "model.head.cap" in out
