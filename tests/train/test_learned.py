"""The learned controller as an optimiser: the same steps as in its training, its file, exact state, refusals."""

import math

import pytest
import torch
from tiny_training import tiny_recipe

from cloche.errors import ClocheError
from cloche.files import sha256_of
from cloche.train import Group, Learned, NextToken, Optimizer, Stepper, Trainer, total_loss
from cloche.train.controller import AdamSteps, Controller, HeavyBall, Quadratic, Steered, rollout
from cloche.train.controller.controller import SIZE
from cloche.train.controller.learned import PACKAGED


@pytest.fixture
def file(tmp_path):
    """A random controller, which turns its knobs a lot."""
    path = tmp_path / "controller.safetensors"
    Controller(torch.randn(SIZE, generator=torch.Generator().manual_seed(0)), AdamSteps(), 0.01).save(path)
    return path


class Points(torch.nn.Module):
    def __init__(self, x):
        super().__init__()
        self.x = torch.nn.Parameter(x.clone())


@pytest.mark.parametrize("rule", [HeavyBall(), AdamSteps()])
def test_the_optimizer_steps_as_the_runs_in_which_it_was_trained(tmp_path, rule):
    family, vector = Quadratic(size=5), torch.randn(86, generator=torch.Generator().manual_seed(1))
    vector[:3] = torch.tensor([0.05, 0.2, 1e-3]).log()
    tasks = family.draw(1, seed=3, steps=20)
    expected = rollout(Steered(), vector[None], rule, family, tasks, steps=20)
    Controller(vector[3:], rule, 0.05, 0.8, 1e-3).save(tmp_path / "c.safetensors")
    net = Points(tasks.weights[0][:1])  # a matrix of one row, which decays as in training
    optimizer, rates = Stepper(net, Learned(path=str(tmp_path / "c.safetensors"), lr=0.05)), []
    for step in range(20):
        optimizer.zero_grad()
        loss = family.score([net.x[None]], tasks).sum()
        loss.backward()
        optimizer.step(loss.item(), step / 20)
        rates.append(optimizer.rates()["matrix"])
    torch.testing.assert_close(torch.tensor(rates), expected.settings[:, 0, 0, 0, 0], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(family.score([net.x[None]], tasks), expected.scores, rtol=1e-3, atol=1e-9)
    assert max(rates) > 1.5 * min(rates)


def steps(file, count, restore_at=None, seed=0):
    recipe = tiny_recipe(optimizer=f"Learned(path={str(file)!r}, lr=0.01)")
    net, generator = recipe.model.build(0), torch.Generator().manual_seed(seed)
    optimizer = Stepper(net, recipe.optimizer)
    for step in range(count):
        if step == restore_at:
            saved = {name: value.clone() for name, value in optimizer.state().items()}
            optimizer = Stepper(net, recipe.optimizer)
            optimizer.restore(saved)
        optimizer.set_rate(0.5)
        optimizer.zero_grad()
        loss = total_loss(NextToken().terms(net, torch.randint(300, (2, 17), generator=generator)))
        loss.backward()
        optimizer.step(loss.item(), step / count)
    return net, optimizer, optimizer.rates()


def test_state_goes_through_names_exactly(file):
    (straight, _, rates), (broken, optimizer, again) = steps(file, 4), steps(file, 4, restore_at=2)
    assert rates == again and len(set(rates.values())) == 3
    for a, b in zip(straight.parameters(), broken.parameters(), strict=True):
        assert torch.equal(a, b)
    assert {"embed.weight/signals", "embed.weight/previous", "embed.weight/mean"} <= optimizer.state().keys()


def test_a_run_that_was_cut_off_ends_in_the_same_bytes(new_run, file):
    from test_resume import crashed, fingerprint

    recipe = tiny_recipe(
        run__steps=10, checkpoint__count=2, log__every=1, optimizer=f"Learned(path={str(file)!r}, lr=0.01)"
    )
    straight, broken = new_run("straight", recipe), new_run("broken", recipe)
    list(Trainer.start(recipe, straight))
    crashed(broken, 8)
    assert broken.checkpoint("last").step == 5
    list(Trainer.resume(broken))
    assert fingerprint(broken) == fingerprint(straight)
    record = straight.read_log("metrics")[-2]
    assert {"lr_matrix", "momentum_matrix", "decay_matrix", "variation_rate_matrix"} <= record.keys()


def test_another_file_cannot_take_over_a_run(new_run, file):
    recipe = tiny_recipe(run__steps=4, optimizer=f"Learned(path={str(file)!r})")
    run = new_run("changed", recipe)
    list(Trainer.start(recipe, run))
    Controller(torch.zeros(SIZE), AdamSteps()).save(file, replace=True)
    with pytest.raises(ClocheError, match="another controller"):
        list(Trainer.resume(run, {"run.steps": "6"}))


def test_a_schedule_still_multiplies(file):
    optimizer = Stepper(torch.nn.Linear(3, 2), Learned(path=str(file), lr=0.01))
    assert optimizer.set_rate(0.5) == {"matrix": 0.005, "vector": 0.005}


def test_a_controller_of_zeros_is_adam(tmp_path):
    Controller(torch.zeros(SIZE), AdamSteps(), weight_decay=0.0).save(tmp_path / "zeros.safetensors")
    torch.manual_seed(0)
    ours, x = torch.nn.Linear(3, 2), torch.randn(5, 8, 3)
    theirs = torch.nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    mine = Stepper(ours, Learned(path=str(tmp_path / "zeros.safetensors"), lr=0.01))
    adam = torch.optim.Adam(theirs.parameters(), lr=0.01, betas=(0.9, 0.95))
    for batch in x:
        for net in (ours, theirs):
            net.zero_grad()
            net(batch).square().sum().backward()
        mine.step(1.0, 0.0), adam.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-3, atol=1e-5)
    assert mine.figures()["variation_rate_matrix"] == 0.0


def test_a_step_without_its_loss_is_refused(file):
    optimizer = Stepper(torch.nn.Linear(3, 2), Learned(path=str(file)))
    with pytest.raises(ClocheError, match="sees the loss"):
        optimizer.step()


def test_a_file_is_checked(tmp_path, file):
    assert torch.equal(Controller.load(file, sha256_of(file)).weights, Controller.load(file).weights)
    with pytest.raises(ClocheError, match=r"has the sha256 [0-9a-f]{64}, not 00ff"):
        Controller.load(file, "00ff")
    with pytest.raises(ClocheError, match="no controller at"):
        Stepper(torch.nn.Linear(3, 2), Learned(path=str(tmp_path / "none")))
    with pytest.raises(ClocheError, match="name another file"):
        Controller(torch.zeros(SIZE), HeavyBall()).save(file)
    damaged = [b"no", file.read_bytes()[:-8], file.read_bytes().replace(b"AdamSteps", b"AdamStepz")]
    for data in damaged:
        file.write_bytes(data)
        with pytest.raises(ClocheError):
            Controller.load(file)
    for weights, lr in ((torch.zeros(5), 0.1), (torch.full((SIZE,), math.nan), 0.1), (torch.zeros(SIZE), -1.0)):
        Controller(weights, HeavyBall(), lr).save(file, replace=True)
        with pytest.raises(ClocheError, match="not a controller"):
            Controller.load(file)


def test_no_server_may_name_it():
    assert Learned.reads_files and issubclass(Learned, Optimizer)


def test_a_group_of_ones_own_is_steered_by_itself(file):
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    optimizer = Stepper(net, Learned(path=str(file), lr=0.01, groups=(Group(match="0.weight", lr=0.1),)))
    for step in range(3):
        optimizer.zero_grad()
        net(torch.randn(8, 3, generator=torch.Generator().manual_seed(step))).square().sum().backward()
        optimizer.step(1.0 / (step + 1), step / 3)
    rates = optimizer.rates()
    assert set(rates) == {"matrix", "vector", "0_weight"} and rates["0_weight"] > 3 * rates["matrix"]
    assert {"0.weight/signals", "1.weight/signals", "0.bias/signals"} <= optimizer.state().keys()


def test_the_controller_that_comes_with_cloche_is_adams_and_can_be_replaced():
    packaged = Controller.load(PACKAGED)
    assert packaged.rule == AdamSteps() and packaged.weights.abs().max() > 0.1
    optimizer = Stepper(torch.nn.Linear(3, 2), Learned())
    assert optimizer.set_rate(1.0) == {"matrix": 0.03, "vector": 0.03}


def test_the_norm_that_is_seen_is_that_before_clipping(file):
    """A gradient that is clipped to a thousandth at each step: the steps of Adam, which do not depend on its scale, are those
    without clipping only if the controller sees the same norms."""
    ends = []
    for clip in (1e30, 1e-3):
        net = Points(torch.ones(1, 4))
        optimizer = Stepper(net, Learned(path=str(file), lr=0.01, clip=clip))
        for step in range(15):
            optimizer.zero_grad()
            loss = (net.x * torch.tensor([1.0, 2.0, 3.0, 4.0])).square().sum()
            loss.backward()
            net.x.grad.mul_(1 + step % 3)  # norms that differ from step to step
            optimizer.clip_gradient()
            optimizer.step(loss.item(), step / 15)
        ends.append(optimizer.rates()["matrix"])
    assert ends[1] == pytest.approx(ends[0], rel=0.05)
