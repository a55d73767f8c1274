"""log/steps.jsonl: what every step measured, by part, and that it survives spikes, stops and resuming."""

import json
import os
import signal

import pytest
import torch
from regression import regression
from test_loop import break_loss
from test_resume import cut_off
from tiny_training import tiny_recipe

from cloche.errors import ClocheError
from cloche.model import GLU, LM, Attention, Block, Stack
from cloche.runs import Run, verify
from cloche.train import Library, Trainer
from cloche.train.monitors.steps import parts_of
from third_party import Loop

COLUMNS = ("loss", "grad_norm", "update_norm", "grad_norms", "update_norms")


def by_step(run):
    """{step: (loss, grad_norm, update_norm, grad_norms, update_norms)}, each step once."""
    found = {}
    for record in run.read_log("steps"):
        rows = list(zip(*(record[name] for name in COLUMNS), strict=True))
        first = record["step"] - len(rows) + 1
        assert not found or first == max(found) + 1
        found |= dict(enumerate(rows, first))
    return found


def lines(run):
    return run.log_path("steps").read_text()


def norm(tensors):
    return sum(tensor.double().square().sum().item() for tensor in tensors) ** 0.5


@pytest.mark.parametrize("kind", ["Muon", "AdamW(clip=0.05)", "SGD"])
def test_it_has_what_a_copy_of_the_weights_says(new_run, kind):
    recipe = tiny_recipe(run__steps=8, log__every=3, optimizer=kind, evaluate__samples=0)
    run = new_run("run", recipe)
    trainer, wanted = Trainer.start(recipe, run), {}
    parts = parts_of(trainer.net)
    clip, step = trainer.optimizer.clip_gradient, trainer.optimizer.step

    def clipped():
        trainer.by_hand = [norm(p.grad for p in own) for own in parts.values()]
        return clip()

    def stepped(*given):
        before = [[p.detach().clone() for p in own] for own in parts.values()]
        step(*given)
        pairs = [zip(own, old, strict=True) for own, old in zip(parts.values(), before, strict=True)]
        wanted[trainer.step] = trainer.by_hand, [norm(p.detach() - q for p, q in pair) for pair in pairs]

    trainer.optimizer.clip_gradient, trainer.optimizer.step = clipped, stepped
    list(trainer)
    found = by_step(run)
    assert list(found) == list(wanted) == list(range(1, 9))
    for at, (gradients, updates) in wanted.items():
        _, grad_norm, update_norm, grad_norms, update_norms = found[at]
        assert grad_norms == pytest.approx(gradients, rel=1e-4)
        assert update_norms == pytest.approx(updates, rel=2e-3)
        assert grad_norm == pytest.approx(norm(map(torch.tensor, gradients)), rel=1e-4)
        assert update_norm == pytest.approx(norm(map(torch.tensor, updates)), rel=2e-3)
    records = run.read_log("steps")
    assert [record["step"] for record in records] == [3, 6, 8]
    assert [record.get("parts") for record in records] == [["embed", "layer 0", "layer 1", "head"], None, None]
    metrics = [record["loss"] for record in run.read_log("metrics") if "loss" in record]
    means = [sum(record["loss"]) / len(record["loss"]) for record in records]
    assert means == pytest.approx(metrics, rel=1e-4)
    assert verify(run.path).problems == []


@pytest.mark.parametrize("end", ["cut off", "Ctrl-C", "left"])
def test_interrupted_and_resumed_it_is_the_same_file(new_run, end):
    recipe = tiny_recipe(run__steps=22, checkpoint__count=3, log__every=6, evaluate__samples=0, evaluate__validations=1)
    straight, broken = new_run("straight", recipe), new_run("broken", recipe)
    list(Trainer.start(recipe, straight))
    trainer = Trainer.start(recipe, broken)
    if end == "cut off":
        cut_off(iter(trainer), 10)
    elif end == "left":
        for record in trainer:
            if record["step"] == 10:
                break
        del record
    else:
        for record in trainer:
            if record["step"] == 10 and record["log"] == "health":
                os.kill(os.getpid(), signal.SIGINT)
    reached = max(by_step(broken))
    assert reached >= 10 and verify(broken.path).problems == []
    assert reached % 6, "there are steps that a record is not due for yet"
    at = broken.checkpoint("last").step
    assert at % 6, "a checkpoint between two records"
    resumed = Trainer.resume(broken)
    assert max(by_step(broken), default=0) == at - at % 6
    list(resumed)
    assert lines(broken) == lines(straight)
    assert by_step(broken).keys() == set(range(1, 23))
    assert verify(broken.path).problems == []


def test_a_spike_is_in_it_with_an_update_of_zero(new_run, monkeypatch):
    break_loss(monkeypatch, {45: 20.0})
    recipe = tiny_recipe(run__steps=50, evaluate__samples=0, log__health_every=50, evaluate__validations=1)
    run = new_run("run", recipe)
    list(Trainer.start(recipe, run))
    found = by_step(run)
    loss, grad_norm, update_norm, grad_norms, update_norms = found[46]
    assert loss > 10 * found[45][0] and min(grad_norm, *grad_norms) > 0
    assert update_norm == 0 and update_norms == [0, 0, 0, 0]
    assert found[45][2] > 0 < found[47][2]
    (metrics,) = (r for r in run.read_log("metrics") if r["step"] == 50 and "loss" in r)
    assert metrics["update_norm"] == pytest.approx(sum(found[s][2] for s in (47, 48, 49, 50)) / 4, rel=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_the_step_that_is_not_finite_is_in_it(new_run, monkeypatch, value):
    break_loss(monkeypatch, {7: value})
    recipe = tiny_recipe()
    run = new_run("run", recipe)
    with pytest.raises(ClocheError):
        list(Trainer.start(recipe, run))
    found = by_step(run)
    assert list(found) == list(range(1, 9))
    loss, grad_norm, update_norm, *_ = found[8]
    assert grad_norm is None and update_norm == 0 and (loss is None or loss > 1e38)
    assert verify(run.path).problems == []


def test_without_it_the_weights_are_the_same(new_run, monkeypatch):
    recipe = tiny_recipe(run__steps=6, evaluate__samples=0)
    run = new_run("run", recipe)
    list(Trainer.start(recipe, run))
    other = new_run("other", recipe)
    trainer = Trainer.start(recipe, other)

    def clip():  # as before there was such a log
        gradients = [p.grad for p in trainer.net.parameters()]
        total, most = torch.nn.utils.get_total_norm(gradients).item(), trainer.optimizer.clip
        if total > most:
            clipped.append(total)
            torch._foreach_mul_(gradients, most / total)
        return total

    clipped = []
    trainer.optimizer.clip_gradient = clip
    monkeypatch.setattr(trainer.steps_log, "add", lambda *_, **__: None)
    monkeypatch.setattr(trainer.warning, "add", lambda *_: None)
    monkeypatch.setattr(trainer, "_metrics", lambda *_: {"step": trainer.step})
    list(trainer)
    assert clipped and not by_step(other)
    sums = [r.checkpoint("last").manifest["files"]["model.safetensors"]["sha256"] for r in (run, other)]
    assert sums[0] == sums[1]


def test_a_run_from_before_it_is_resumed(new_run):
    recipe = tiny_recipe(run__steps=22, checkpoint__count=3, log__every=6, evaluate__samples=0)
    run, straight = new_run("run", recipe), new_run("straight", recipe)
    list(Trainer.start(recipe, straight))
    cut_off(iter(Trainer.start(recipe, run)), 10)
    at = run.checkpoint("last")
    state = json.loads((at.path / "state.json").read_text())
    steps = state.pop("steps")
    state |= {"losses": steps["loss"], "updates": steps["update_norm"]}
    with run.new_checkpoint(at.step, past=run.path / "made") as folder:
        for path in at.path.iterdir():
            if path.name != "manifest.json":
                (folder / path.name).write_bytes(path.read_bytes())
        (folder / "state.json").write_text(json.dumps(state))
    run.remove_checkpoint(at.step)
    (run.path / "made" / at.name).rename(at.path)
    (run.path / "made").rmdir()
    run.log_path("steps").unlink()
    run.anchor_logs()
    list(Trainer.resume(run))
    old, new = by_step(run), by_step(straight)
    waiting = at.step % 6
    assert waiting and list(old) == list(range(at.step - waiting + 1, 23))
    assert [old[step][0] for step in old] == [new[step][0] for step in old]
    assert old[at.step][1] is None and old[at.step][2] == new[at.step][2] and old[at.step][3] is None
    assert old[at.step + 1] == new[at.step + 1]
    known = ("step", "loss", "update_norm", "update_norm_max", "grad_norm")
    metrics = [[{k: r[k] for k in known} for r in each.read_log("metrics") if "loss" in r] for each in (run, straight)]
    assert metrics[0] == metrics[1]


def test_parts_are_named_after_where_they_are_first_used():
    block = Block(Attention(2), GLU())
    looped = LM(vocab=20, width=16, body=Loop(3, block)).build(0)
    assert list(parts_of(looped)) == ["embed", "layer 0", "head"]
    tied = LM(vocab=20, width=16, body=Stack(2, block), tied=True).build(0)
    assert sum(len(own) for own in parts_of(tied).values()) == len(list(tied.parameters()))
    assert parts_of(tied)["embed"] == [tied.embed.weight]
    own = torch.nn.ModuleDict({"first": torch.nn.Linear(2, 2), "act": torch.nn.ReLU(), "head": torch.nn.Linear(2, 2)})
    assert {name: len(own) for name, own in parts_of(own).items()} == {"first": 2, "head": 2}


def test_what_is_no_network_and_says_nothing_of_its_updates(tmp_path):
    run = Run.create(tmp_path / "run", "")
    list(regression(run, 15, optimizer=Library("torch.optim:Adamax", lr=0.1)))
    first, last = run.read_log("steps")
    assert first["parts"] == ["head"] and len(last["loss"]) == 5
    assert first["update_norm"] == [None] * 10 == first["update_norms"]
    assert [[norm] for norm in first["grad_norm"]] == first["grad_norms"]
