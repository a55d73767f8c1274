"""The average of the weights: its closed form, the loss it saves on a noisy quadratic, resume, and how it is opened."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from regression import regression
from tiny_training import tiny_recipe
from torch import nn

import cloche
from cloche.cli import main
from cloche.errors import ClocheError, ModelMissing, PartInvalid, ResumeRefused
from cloche.runs import Run, verify
from cloche.train import EMA, KFAC, AdamW, Average, Muon, Optimizer, Stepper, Trainer, evaluate


@dataclass(frozen=True)
class Plain(Optimizer):
    """Plain gradient descent."""

    def build(self, net, dtype=torch.float32):
        return [torch.optim.SGD([{"name": "all", "params": list(net.parameters()), "lr": self.lr}])]


@dataclass(frozen=True)
class Last(Average):
    """A third party's, of the last weights alone."""

    def share(self, update):
        return 1.0


def descended(optimizer, steps, start=None, noise=0.0, coordinates=1):
    """Weights after each update of gradient descent on w²/2 with noisy gradients, and its stepper."""
    net, generator = nn.Linear(coordinates, 1, bias=False).double(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        net.weight.fill_(0.0 if start is None else start)
    stepper, weights = Stepper(net, optimizer), []
    for _ in range(steps):
        net.weight.grad = net.weight.detach() + noise * torch.randn(net.weight.shape, generator=generator).double()
        stepper.step()
        weights.append(net.weight.detach().clone())
    return torch.stack(weights)[:, 0], stepper, net


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.999])
def test_it_is_the_closed_form_on_a_known_sequence(decay):
    weights, stepper, net = descended(Plain(lr=0.25, average=EMA(decay)), 12, start=8.0)
    assert weights[:, 0].tolist() == [8 * 0.75 ** (n + 1) for n in range(12)]
    factors = decay ** torch.arange(11, -1, -1, dtype=torch.float64)
    with stepper.averaged():
        assert net.weight.item() == pytest.approx(float(factors @ weights[:, 0] / factors.sum()), rel=1e-12)
    assert net.weight.item() == weights[-1, 0]


def test_after_one_update_it_is_the_weights():
    weights, stepper, _ = descended(Plain(lr=0.25, average=EMA(0.999)), 1, start=8.0)
    assert torch.equal(stepper.state()["weight/average"][0], weights[0])


def test_on_a_noisy_quadratic_its_loss_is_lower_by_the_predicted_factor():
    """The iterates are autoregressive with coefficient a = 1 - lr, their average the filter (1 - d) / (1 - d B)."""
    lr, d = 0.5, 0.9
    weights, stepper, _ = descended(Plain(lr=lr, average=EMA(d)), 150, noise=1.0, coordinates=20_000)
    a = 1 - lr
    assert weights[-1].square().mean().item() == pytest.approx(lr / (2 - lr), rel=0.04)
    factor = (1 - d) / (1 + d) * (1 + a * d) / (1 - a * d)
    measured = stepper.state()["weight/average"].square().mean() / weights[-1].square().mean()
    assert measured.item() == pytest.approx(factor, rel=0.05) and factor < 0.14
    _, control, _ = descended(Plain(lr=lr, average=EMA(0.0)), 20, noise=1.0, coordinates=20_000)
    assert torch.equal(control.state()["weight/average"][0], descended(Plain(lr=lr), 20, None, 1.0, 20_000)[0][-1])


@pytest.mark.parametrize("part", [AdamW, Muon, KFAC])
@pytest.mark.parametrize("average", [EMA(0.0), Last()], ids=str)
def test_without_decay_it_is_the_weights_and_it_changes_no_training(tmp_path, part, average):
    made = [
        regression(Run.create(tmp_path / str(i), ""), 20, optimizer=part(lr=0.1, average=each))
        for i, each in enumerate([None, average])
    ]
    for loop in made:
        list(loop)
    plain, averaged = made
    for name, p in averaged.net.named_parameters():
        assert torch.equal(p, averaged.optimizer.state()[f"{name}/average"])
        assert torch.equal(p, plain.net.get_parameter(name))


def test_a_skipped_step_leaves_it_alone(tmp_path):
    loop = regression(
        Run.create(tmp_path / "run", ""), 70, planted={60: 1000.0}, optimizer=AdamW(lr=0.1, average=EMA(0.5))
    )
    seen = {}
    for record in loop:
        if record.get("kind") == "spike":
            seen = {name: value.clone() for name, value in loop.optimizer.state().items()}
            assert seen["weight/averaged"] == record["step"] - 1 == 60
    assert seen and loop.optimizer.state()["weight/averaged"] == 69


def test_it_resumes_in_the_same_bytes_and_may_begin_late(new_run):
    recipe = tiny_recipe(run__steps=8, checkpoint__count=2, optimizer="AdamW(average=EMA(decay=0.8))")
    straight, broken = new_run("straight", recipe), new_run("broken", recipe)
    list(Trainer.start(recipe, straight))
    first = Trainer.start(recipe, broken)
    for record in first:
        if record["step"] == 4:
            first.stop()
    list(Trainer.resume(broken))
    hashes = [run.checkpoint("last").manifest["files"]["optimizer.safetensors"]["sha256"] for run in (straight, broken)]
    assert hashes[0] == hashes[1] and verify(straight.path).problems == []

    late = new_run("late", tiny_recipe(run__steps=6, checkpoint__count=1))
    list(Trainer.start(tiny_recipe(run__steps=6, checkpoint__count=1), late))
    with pytest.raises(ModelMissing, match=r"has no average of its weights; train with one"):
        cloche.load(late.path, average=True)
    trainer = Trainer.resume(late, {"run.steps": 8, "optimizer.average": "EMA(decay=0.5)"})
    list(trainer)
    assert trainer.optimizer.state()["embed.weight/averaged"] == 2


def test_it_is_validated_and_opened(new_run, capsys):
    recipe = tiny_recipe(run__steps=8, optimizer__average="EMA(decay=0.9)", evaluate__tokens=512)
    run = new_run("run", recipe)
    trainer = Trainer.start(recipe, run)
    list(trainer)
    scores = [record for record in run.read_log("metrics") if "val_loss" in record]
    assert scores[0]["val_loss_average"] == scores[0]["val_loss"], "no update yet"
    assert scores[-1]["val_loss_average"] != scores[-1]["val_loss"]
    plain, averaged = cloche.load(run.path), cloche.load(run.path, average=True)
    for glass, suffix in ((plain, ""), (averaged, "_average")):
        score = evaluate(glass.net, trainer.validation, trainer.tokenizer.byte_lengths, 32, 4, 512)
        assert (score.nats_per_token, score.bits_per_byte) == (
            scores[-1][f"val_loss{suffix}"],
            scores[-1][f"val_bpb{suffix}"],
        )
    assert averaged.checkpoint == "step-000008-average" and averaged.name.endswith("step-000008-average")
    with pytest.raises(SystemExit, match="0"):
        main(["generate", str(run.path), "the", "--new", "2", "--average", "--json"])
    assert '"step-000008-average"' in capsys.readouterr().out


def test_refusals(tmp_path):
    with pytest.raises(ClocheError, match=r"EMA\(decay=1.0\) must lie between 0 and"):
        EMA(1.0)
    _, stepper, _ = descended(Plain(lr=0.25, average=EMA(0.9)), 2)
    with pytest.raises(ResumeRefused, match="the saved average of the weights has none of 'weight'"):
        stepper.restore({"other/average": torch.ones(1), "weight/averaged": torch.tensor(1)})

    class Clash(Plain):
        def build(self, net, dtype=torch.float32):
            (built,) = super().build(net)
            built.state[net.weight]["average"] = torch.zeros(1)
            return [built]

    with pytest.raises(PartInvalid, match="names its state 'average'"):
        Stepper(nn.Linear(1, 1), Clash()).state()
    cloche.model.save_network(tiny_recipe().model.build(0), tmp_path / "net")
    with pytest.raises(ModelMissing, match=r"has no optimizer.safetensors"):
        cloche.load(tmp_path / "net", average=True)


# ---- clipping


def gradient(scale):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
    for p in net.parameters():
        p.grad = scale * torch.randn(p.shape)
    return net, torch.cat([p.grad.flatten() for p in net.parameters()])


def clipped(net, clip):
    norm = Stepper(net, Plain(clip=clip)).clip_gradient()
    return norm, torch.cat([p.grad.flatten() for p in net.parameters()])


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_clipped_gradient_has_exactly_that_norm_and_its_direction(scale):
    net, before = gradient(scale)
    norm, after = clipped(net, scale)
    assert norm == pytest.approx(before.norm().item(), rel=1e-6) and norm > scale
    assert after.norm().item() == pytest.approx(scale, rel=1e-6)
    torch.testing.assert_close(after / after.norm(), before / before.norm(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("clip", [100.0, 1e30])
def test_a_small_gradient_is_untouched(clip):
    net, before = gradient(1.0)
    _, after = clipped(net, clip)
    assert torch.equal(before, after)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_gradient_without_a_finite_norm_ends_training_and_is_not_applied(tmp_path, value):
    """1e30: its square is no number of float32."""
    loop = regression(Run.create(tmp_path / "run", ""), 20, optimizer=AdamW(lr=0.1, average=EMA(0.5)))
    loop.net.weight.register_hook(lambda g: g if loop.step < 10 else torch.full_like(g, value))
    with pytest.raises(ClocheError, match="step 11"):
        list(loop)
    assert loop.step == 10 and loop.optimizer.state()["weight/averaged"] == 10
