"""The loop: what it logs, what it refuses, and how it ends."""

import itertools
import os
import signal
import threading

import pytest
import torch
from tiny_training import tiny_recipe

from cloche.errors import ClocheError
from cloche.runs import Run, verify
from cloche.train import Muon, NextToken, Recipe, Trainer


def grow(run, recipe=None):
    return list(Trainer.start(recipe or tiny_recipe(), run))


def kinds(run):
    return [event["kind"] for event in run.read_log("events")]


def weights(run, step="last"):
    return run.checkpoint(step).manifest["files"]["model.safetensors"]["sha256"]


@pytest.fixture
def run(new_run):
    return new_run("run", tiny_recipe())


def test_a_run_logs_all_that_was_agreed(run):
    records = grow(run)
    for name in ("metrics", "health", "samples", "events"):
        assert [{k: v for k, v in r.items() if k != "log"} for r in records if r["log"] == name] == run.read_log(name)
    metrics = [r for r in run.read_log("metrics") if "loss" in r]
    assert [r["step"] for r in metrics] == [5, 10, 15, 20]
    assert set(metrics[0]) == {
        "step", "time", "tokens", "flops", "loss", "lr", "lr_matrix", "lr_rest", "shrink_matrix", "grad_norm",
        "update_norm", "update_norm_max", "tokens_per_second", "mfu", "weights", "eta",
    }  # fmt: skip
    assert metrics[-1]["tokens"] == 20 * 4 * 32
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    validations = [r for r in run.read_log("metrics") if "val_bpb" in r]
    assert [r["step"] for r in validations] == [0, 10, 20]
    assert validations[-1]["val_bpb"] < validations[0]["val_bpb"]
    assert [r["step"] for r in run.read_log("health")] == [5, 10, 15, 20]
    assert {r["usual_update_ratio"] for r in run.read_log("health")} == {Muon.usual_update_ratio}
    assert Muon.usual_update_ratio > 0.017, "what the default optimiser does is no alarm"
    assert [(r["step"], r["prompt"], len(r["next"])) for r in run.read_log("samples")] == [
        (0, "the ", 10),
        (20, "the ", 10),
    ]
    assert kinds(run) == ["start", "checkpoint", "checkpoint", "checkpoint", "checkpoint", "finished"]
    assert verify(run.path).problems == []


def test_logs_deleted_under_a_trainer_are_put_back_and_that_is_said(run):
    said = []
    for record in Trainer.start(tiny_recipe(), run):
        if record["log"] == "metrics" and record["step"] == 10:
            for path in (run.path / "log").glob("*.jsonl"):
                path.unlink()
        if record["log"] == "events" and record["kind"] == "log":
            said.append(record["message"])
    assert {"metrics", "events"} <= {
        name for name in ("metrics", "events") for text in said if f"{name}.jsonl was put" in text
    }
    assert [r["step"] for r in run.read_log("metrics") if "loss" in r] == [5, 10, 15, 20]
    assert kinds(run)[-1] == "finished"
    assert verify(run.path).problems == []


def test_the_recipe_is_written_as_resolved(new_run):
    recipe = tiny_recipe(run__precision="auto", tokenizer__vocab=400, model__vocab=400)
    run = new_run("resolved", recipe)
    trainer = Trainer.start(recipe, run)
    resolved = Recipe.parse(run.recipe)
    assert resolved == trainer.recipe
    assert resolved.model.vocab == trainer.tokenizer.vocab == 300
    assert resolved.run.precision in ("fp32", "bf16")
    assert resolved.run.threads == 1


def test_minutes_become_steps_before_training_starts(new_run):
    recipe = tiny_recipe(run__minutes=0.05)
    run = new_run("minutes", recipe)
    trainer = Trainer.start(recipe, run)
    resolved = Recipe.parse(run.recipe)
    assert resolved.run.steps == trainer.steps > 1
    assert resolved.run.minutes == 0.05
    assert (trainer.step, trainer.batches.state()["step"], run.checkpoints()) == (0, 0, [])
    assert [p.name for p in run.path.iterdir() if p.name.startswith(".") and not p.name.startswith(".lock")] == []


def test_a_recipe_run_twice_gives_the_same_bytes(new_run):
    recipe = tiny_recipe(
        optimizer__part="Muon", run__threads=2, run__steps=3, log__health_every=3, evaluate__validations=1
    )
    a, b = new_run("a", recipe), new_run("b", recipe)
    grow(a, recipe)
    torch.rand(7)  # whatever else drew numbers in between
    grow(b, recipe)
    for step in (0, 3):
        files = [r.checkpoint(step).manifest["files"] for r in (a, b)]
        for name in ("model.safetensors", "optimizer.safetensors", "config.json"):
            assert files[0][name] == files[1][name]
    assert a.read_log("health") == b.read_log("health")
    assert a.read_log("samples") == b.read_log("samples")


def test_another_seed_gives_another_model(new_run):
    recipe, other = tiny_recipe(run__steps=2), tiny_recipe(run__steps=2, run__seed=1)
    a, b = new_run("a", recipe), new_run("b", other)
    grow(a, recipe), grow(b, other)
    assert weights(a, 0) != weights(b, 0)


def test_bf16_trains(new_run):
    recipe = tiny_recipe(run__precision="bf16")
    run = new_run("bf16", recipe)
    losses = [r["loss"] for r in grow(run, recipe) if "loss" in r]
    assert losses[-1] < losses[0]


def break_loss(monkeypatch, values):
    """The loss of the steps named is scaled: a planted fault, gradients and all."""
    plain, calls = NextToken.terms, itertools.count()

    def planted(self, net, batch):
        # Single rows are the trial before training, and those that the noise scale is taken from.
        scale = values.get(next(calls), 1.0) if len(batch) > 1 else 1.0
        return {name: term._replace(value=term.value * scale) for name, term in plain(self, net, batch).items()}

    monkeypatch.setattr(NextToken, "terms", planted)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_what_is_not_finite_stops_the_run_and_spoils_nothing(run, monkeypatch, value):
    break_loss(monkeypatch, {13: value})
    trainer = Trainer.start(tiny_recipe(), run)
    before = []

    def follow():
        for _ in trainer:
            before[:] = [p.clone() for p in trainer.net.parameters()]

    with pytest.raises(ClocheError, match=r"step 14: .* not applied .* step-000013; .* --set optimizer.lr") as caught:
        follow()
    assert "\n" not in str(caught.value)
    assert run.read_log("events")[-1]["kind"] == "nonfinite"
    assert run.read_log("events")[-1]["step"] == 14
    assert all(torch.isfinite(p).all() for p in trainer.net.parameters())
    assert all(torch.equal(p, q) for p, q in zip(trainer.net.parameters(), before, strict=True))
    assert run.checkpoint("last").step == 13
    assert verify(run.path).problems == []


def test_after_that_it_resumes_with_a_lower_rate(run, monkeypatch):
    with monkeypatch.context() as patch:
        break_loss(patch, {13: float("nan")})
        with pytest.raises(ClocheError):
            grow(run)
    list(Trainer.resume(run, {"optimizer.lr": "0.001"}))
    assert Recipe.parse(run.recipe).optimizer.lr == 0.001
    resumed = [event["message"] for event in run.read_log("events") if event["kind"] == "resume"]
    assert resumed[-1].endswith(" -> 0.001") and "; optimizer.lr " in resumed[-1]
    assert kinds(run)[-1] == "finished"
    assert run.checkpoint("last").step == 20


def test_a_spike_is_named_and_not_applied(new_run, monkeypatch):
    break_loss(monkeypatch, {45: 20.0})
    recipe = tiny_recipe(run__steps=50, evaluate__samples=0)
    run = new_run("spike", recipe)
    trainer, states = Trainer.start(recipe, run), {}
    update = trainer.update

    def watched():
        result = update()
        states[trainer.step] = trainer.net.embed.weight.detach().clone()
        return result

    trainer.update = watched
    list(trainer)
    spikes = [event for event in run.read_log("events") if event["kind"] == "spike"]
    assert [event["step"] for event in spikes] == [46]
    assert "step 46" in spikes[0]["message"]
    assert torch.equal(states[45], states[46])
    assert not torch.equal(states[46], states[47])


def test_weights_that_are_not_finite_are_never_saved(run):
    trainer = Trainer.start(tiny_recipe(), run)
    with torch.no_grad():
        trainer.net.embed.weight[3, 3] = torch.inf
    with pytest.raises(ClocheError, match=r"embed.weight"):
        trainer.save()
    assert run.checkpoints() == []


def test_ctrl_c_saves_and_stops_cleanly(run):
    records, before = [], signal.getsignal(signal.SIGINT)
    for record in Trainer.start(tiny_recipe(), run):
        records.append(record)
        if record.get("loss") and record["step"] == 5:
            os.kill(os.getpid(), signal.SIGINT)
    assert records[-1]["kind"] == "stopped"
    assert run.checkpoint("last").step == records[-1]["step"] < 20
    assert signal.getsignal(signal.SIGINT) is before  # ignored, where the shell put the tests in the background


def test_leaving_the_loop_early_saves(run):
    for record in Trainer.start(tiny_recipe(), run):
        if record["step"] == 5:
            break
    del record
    assert run.checkpoint("last").step == 5
    assert kinds(run)[-1] == "stopped"


def test_it_runs_outside_the_main_thread(run):
    thread = threading.Thread(target=grow, args=(run,))
    thread.start()
    thread.join()
    assert kinds(run)[-1] == "finished"


def test_two_writers_are_refused(run):
    trainer = Trainer.start(tiny_recipe(), run)
    first, second = iter(trainer), iter(Trainer(trainer.recipe, run))
    next(first)
    with pytest.raises(ClocheError, match="another process"):
        next(second)
    first.close()


def test_misuse_is_one_sentence(new_run):
    recipe = tiny_recipe(run__steps=2)
    run = new_run("twice", recipe)
    grow(run, recipe)
    with pytest.raises(ClocheError, match="resume"):
        Trainer.start(recipe, run)
    with pytest.raises(ClocheError, match=r"finished its 2 steps.*run.steps=4"):
        Trainer.resume(run)
    for key in ("model.width", "data.paths", "run.seed", "run.batch", "nonsense"):
        with pytest.raises(ClocheError, match=key):
            Trainer.resume(run, {key: "3"})
    big = tiny_recipe(run__batch=100_000)
    with pytest.raises(ClocheError, match="smaller than one batch"):
        Trainer.start(big, new_run("big", big))


def test_a_run_over_no_corpus_is_one_sentence(tmp_path):
    recipe = tiny_recipe(data__paths=[str(tmp_path / "none")])
    with pytest.raises(ClocheError, match="none"):
        Trainer.start(recipe, Run.create(tmp_path / "run", recipe.to_toml()))
