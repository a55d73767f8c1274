"""The loop trains whatever it is given: here a line, with the logs, checkpoints, resume and spike guard of every training."""

from __future__ import annotations

import json

import pytest
import torch
from regression import SLOPE, regression

from cloche.errors import ClocheError
from cloche.runs import Run, verify
from cloche.train import AdamW, Callback, Every, Group, Term


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", "")


class Watching(Callback):
    """Counts how often it was asked, and keeps the count in checkpoints."""

    name = "watching"

    def __init__(self, when) -> None:
        super().__init__(when)
        self.count = 0

    def run(self, step):
        self.count += 1
        return [("watched", {"count": self.count}), ("metrics", {"seen": self.count})]

    def state(self):
        return {"count": self.count}

    def restore(self, state) -> None:
        self.count = state["count"]


def weights(run):
    last = run.checkpoint("last")
    return {name: last.manifest["files"][name]["sha256"] for name in ("model.safetensors", "optimizer.safetensors")}


def untimed(run, name):
    return [{k: v for k, v in record.items() if k != "eta"} for record in run.read_log(name)]


def watched(run, steps=100, **points):
    loop = regression(run, steps, **points)
    loop.callbacks.append(Watching(Every(loop.plan, 15)))
    return loop


def test_a_regression_is_learned_and_logged(run):
    loop = watched(run)
    records = list(loop)
    assert torch.allclose(loop.net.weight, SLOPE, atol=0.1)
    metrics = [record for record in run.read_log("metrics") if "loss" in record]
    assert [record["step"] for record in metrics] == list(range(10, 101, 10))
    rates = {"lr", "lr_rest", "lr_matrix", "shrink_matrix"}
    moved = {"update_norm", "update_norm_max"}
    assert set(metrics[0]) == {"step", "time", "loss", "size", "grad_norm", "weights", "eta", *rates, *moved}
    assert all(record["shrink_matrix"] == 1 - 0.1 * record["lr_matrix"] < 1 for record in metrics)
    assert metrics[-1]["loss"] < 0.03 < metrics[0]["loss"]
    assert [(r["step"], r["count"]) for r in run.read_log("watched")] == [(15 * i, i) for i in range(1, 7)]
    assert [r["kind"] for r in run.read_log("events")][-1] == "finished" == records[-1]["kind"]
    assert verify(run.path).problems == []


def test_stopped_and_resumed_it_ends_in_the_same_bytes(run, tmp_path):
    list(watched(run))
    other = Run.create(tmp_path / "other", "")
    stopped = watched(other)
    for record in stopped:
        if record["step"] == 30:
            stopped.stop()
    assert other.checkpoint("last").step < 100
    again = watched(other)
    again.restore(other.checkpoint("last"))
    again.drop_later()
    list(again)
    assert weights(other) == weights(run)
    assert untimed(other, "metrics") == untimed(run, "metrics")
    assert other.read_log("watched") == run.read_log("watched")


def test_a_planted_spike_is_found_and_not_applied(run):
    loop = watched(run, planted={60: 1000.0})
    before = {}
    for record in loop:
        before[loop.step] = loop.net.weight.detach().clone()
        if record.get("kind") == "spike":
            assert record["step"] == 61
    assert [event["step"] for event in run.read_log("events") if event["kind"] == "spike"] == [61]
    assert torch.allclose(loop.net.weight, SLOPE, atol=0.1)


def test_checkpoints_between_which_nothing_moved_are_no_problem(run):
    still = regression(run, 40, optimizer=AdamW(groups=(Group("weight", scale=0.0), Group("bias", scale=0.0))))
    list(still)
    files = {checkpoint.manifest["files"]["model.safetensors"]["sha256"] for checkpoint in run.checkpoints()}
    assert len(files) == 1 < len(run.checkpoints())
    assert verify(run.path).problems == []


def test_what_is_not_finite_ends_it(run):
    loop = watched(run, planted={30: float("nan")})
    with pytest.raises(ClocheError, match=r"step 31.*lower the learning rate"):
        list(loop)
    assert torch.isfinite(loop.net.weight).all()


def test_an_objective_without_a_loss_is_one_sentence(run):
    loop = regression(run, 10)

    class Nameless:
        def terms(self, net, batch):
            return {"error": Term(net(batch[0]).mean())}

    loop.objective = Nameless()
    with pytest.raises(ClocheError, match=r'returned error; one of its terms must be called "loss"'):
        list(loop)

    class Bare:
        def terms(self, net, batch):
            return {"loss": net(batch[0]).mean()}

    loop.objective = Bare()
    with pytest.raises(ClocheError, match=r"returned a Tensor as 'loss'; return Term\(value, weight\) there"):
        list(loop)


def test_an_optimizer_that_leaves_something_out_is_one_sentence(run):
    from cloche.train import Optimizer, Stepper

    class Half(Optimizer):
        def build(self, net, dtype=torch.float32):
            return [torch.optim.SGD([net.weight], lr=self.lr)]

    with pytest.raises(ClocheError, match="exactly one group, and it does not for bias"):
        Stepper(torch.nn.Linear(3, 1), Half())


def test_another_optimizer_does_not_take_over_a_state(run):
    list(watched(run, 20))
    path = run.checkpoint("last").path / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | {"optimizer": "Muon"}))
    with pytest.raises(ClocheError, match="was trained by Muon, and AdamW cannot"):
        watched(run, 40).restore(run.checkpoint("last"))
