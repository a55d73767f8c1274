"""log/steps.jsonl: what every step measured, by part, and that it survives spikes, stops and resuming."""

import json
import os
import shutil
import signal
from contextlib import nullcontext

import pytest
import torch
from regression import regression
from test_loop import break_loss
from test_resume import cut_off
from tiny_training import tiny_recipe

from cloche.errors import ClocheError
from cloche.model import GLU, LM, Attention, Block, Stack
from cloche.runs import Run, verify
from cloche.train import Library, Replay, Trainer, aside
from cloche.train.monitors import steps
from cloche.train.monitors.steps import parts_of
from third_party import Loop

QUIET = {"log__health_every": 50, "evaluate__samples": 0, "evaluate__validations": 1}
SHORT = tiny_recipe(run__steps=14, checkpoint__count=3, log__every=4, **QUIET)  # checkpoints after 5, 9 and 14 steps
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


@pytest.fixture(scope="module")
def straight(prepared, tmp_path_factory):
    """A run of `SHORT` that was not interrupted: (its log, its records of metrics)."""
    run = Run.create(tmp_path_factory.mktemp("straight") / "run", SHORT.to_toml())
    for path in (prepared / "tokenizer.json", prepared / "tokenizer_config.json"):
        shutil.copyfile(path, run.path / path.name)
    shutil.copytree(prepared / "data", run.path / "data")
    with aside():
        list(Trainer.start(SHORT, run))
    return run


def norm(tensors):
    return sum(tensor.double().square().sum().item() for tensor in tensors) ** 0.5


@pytest.mark.parametrize("kind", ["Muon", "AdamW(clip=0.05)", "SGD"])
def test_it_has_what_a_copy_of_the_weights_says(new_run, kind):
    recipe = tiny_recipe(run__steps=8, log__every=3, optimizer=kind, checkpoint__count=1, **QUIET)
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
def test_interrupted_and_resumed_it_is_the_same_file(new_run, straight, end):
    run = new_run("run", SHORT)
    trainer = Trainer.start(SHORT, run)
    update = trainer.update

    def interrupted():
        if trainer.step == 6 and end == "cut off":
            raise MemoryError
        if trainer.step == 6 and end == "Ctrl-C":
            os.kill(os.getpid(), signal.SIGINT)
        return update()

    trainer.update = interrupted
    with pytest.raises(MemoryError) if end == "cut off" else nullcontext():
        for record in trainer:
            if end == "left" and record["step"] == 5:
                break
    del record
    assert max(by_step(run)) == {"cut off": 6, "Ctrl-C": 7, "left": 5}[end]
    assert verify(run.path).problems == []
    resumed = Trainer.resume(run)
    assert resumed.step == {"cut off": 5, "Ctrl-C": 7, "left": 5}[end]
    assert max(by_step(run)) == 4, "what is resumed is written again, where a record is due"
    list(resumed)
    assert lines(run) == lines(straight)
    assert by_step(run).keys() == set(range(1, 15))
    assert verify(run.path).problems == []


def test_few_records_do_not_make_long_lines(new_run, straight, monkeypatch):
    monkeypatch.setattr(steps, "MOST", 3)
    rarely = SHORT.with_set({"log.every": 10})
    run = new_run("run", rarely)
    cut_off(iter(Trainer.start(rarely, run)), 9)
    list(Trainer.resume(run))
    assert [record["step"] for record in run.read_log("steps")] == [3, 6, 9, 10, 12, 14]
    assert by_step(run) == by_step(straight)
    first, last = (record for record in run.read_log("metrics") if "loss" in record)
    for record, begin in ((first, 1), (last, 11)):
        rows = [by_step(straight)[step] for step in range(begin, record["step"] + 1)]
        assert record["loss"] == pytest.approx(sum(loss for loss, *_ in rows) / len(rows), rel=1e-5)
        assert record["update_norm_max"] == pytest.approx(max(norm for _, _, norm, *_ in rows), rel=1e-4)


def test_a_rewound_step_goes_on_to_the_same_log(straight, tmp_path):
    run = Run.open(shutil.copytree(straight.path, tmp_path / "run"))
    with aside():
        replay = Replay(run, run.checkpoint(5), 7)
        replay.advance(7)
        replay.save()
    for later in [c for c in run.checkpoints() if c.step > 7]:
        run.remove_checkpoint(later.step)
    list(Trainer.resume(run))
    assert lines(run) == lines(straight)
    assert verify(run.path).problems == []


def test_a_spike_is_in_it_with_an_update_of_zero(new_run, monkeypatch):
    break_loss(monkeypatch, {45: 20.0})
    recipe = tiny_recipe(run__steps=50, checkpoint__count=1, **QUIET)
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
    recipe = tiny_recipe(checkpoint__count=1, **QUIET)
    run = new_run("run", recipe)
    with pytest.raises(ClocheError):
        list(Trainer.start(recipe, run))
    found = by_step(run)
    assert list(found) == list(range(1, 9))
    loss, grad_norm, update_norm, *_ = found[8]
    assert grad_norm is None and update_norm == 0 and (loss is None or loss > 1e38)
    assert verify(run.path).problems == []


def test_without_it_the_weights_are_the_same(new_run, monkeypatch):
    recipe = tiny_recipe(run__steps=6, checkpoint__count=1, **QUIET)
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


def test_a_run_from_before_it_is_resumed(straight, tmp_path):
    run = Run.open(shutil.copytree(straight.path, tmp_path / "run"))
    at = run.checkpoint(5)
    state = json.loads((at.path / "state.json").read_text())
    kept = state.pop("steps")
    state |= {"losses": kept["loss"], "updates": kept["update_norm"]}
    with run.new_checkpoint(5, past=tmp_path) as folder:
        for path in at.path.iterdir():
            if path.name != "manifest.json":
                shutil.copyfile(path, folder / path.name)
        (folder / "state.json").write_text(json.dumps(state))
    for checkpoint in run.checkpoints():
        run.remove_checkpoint(checkpoint.step)
    (tmp_path / at.name).rename(at.path)
    run.log_path("steps").unlink()
    run.anchor_logs()
    list(Trainer.resume(run))
    old, new = by_step(run), by_step(straight)
    assert list(old) == list(range(5, 15))
    assert [old[step][0] for step in old] == [new[step][0] for step in old]
    assert old[5] == (new[5][0], None, new[5][2], None, None)
    assert old[6] == new[6]
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
