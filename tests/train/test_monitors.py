"""Rank, kurtosis, gain, noise scale and alarms against planted truth, each with a control."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from tiny_training import tiny_recipe

from cloche.model import GLU, LM, MLP, Attention, Block, Stack
from cloche.train import KFAC, AdamW, Health, Muon, NextToken, NoiseScale, Optimizer, Stepper, TokenBatch, Trainer
from cloche.train.monitors.layers import Gains, moments, participation_ratio
from cloche.train.monitors.noise import BatchNoise
from cloche.train.monitors.pretraining import alarms

NET = LM(vocab=20, width=24, body=Stack(2, Block(Attention(2), GLU(hidden=20))))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ids(rows: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randint(20, (rows, 17), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rank", [1, 3, 8])
@pytest.mark.parametrize("rows", [4000, 40])  # more than the width, and fewer
def test_a_planted_rank_is_found(rank, rows):
    axes = torch.linalg.qr(normal(64, rank))[0]
    found = participation_ratio(7.0 + normal(rows, rank, seed=1) @ axes.T)
    assert found == pytest.approx(1 / (1 / rank + 1 / rows), rel=0.05 if rows > 1000 else 0.3)


def test_isotropic_rows_have_full_rank_and_equal_rows_none():
    assert participation_ratio(normal(6400, 64)) == pytest.approx(64, rel=0.03)
    assert participation_ratio(torch.ones(10, 4)) is None


def test_kurtosis_of_gaussian_channels_is_3_and_of_an_outlier_channel_known():
    x = normal(20_000, 32)
    assert moments(5 + 2 * x) == (pytest.approx(4, rel=0.01), pytest.approx(3, abs=0.05))
    x[:, 7] *= 20
    assert moments(x)[1] == pytest.approx(3 * 32 * (31 + 20**4) / (31 + 20**2) ** 2, rel=0.03)


def test_gain_is_one_without_a_direction_and_the_root_of_the_width_along_one():
    net = NET.build(0)
    gains = Gains(net)
    maps = [module for module in net.layers[1].modules() if module in gains.maps]
    with torch.no_grad():
        for module in maps:
            module.weight.copy_(torch.outer(normal(len(module.weight)), torch.ones(module.weight.shape[1])))
    with gains.measured():
        for module in maps:
            module(torch.ones(3, module.weight.shape[1]))  # along the only direction that it passes on
        for module in (module for module in net.layers[0].modules() if module in gains.maps):
            module(normal(20_000, module.weight.shape[1]))
    aligned = torch.tensor([module.weight.shape[1] for module in maps]).log().mean().div(2).exp().item()
    assert gains.by_layer({p: p.norm().item() for p in net.parameters()}) == pytest.approx([1.0, aligned], rel=0.03)


def test_gains_leave_what_watches_a_map_as_it_was():
    net = NET.build(0)
    optimizer = Stepper(net, KFAC())
    rows = [moments.rows for moments in optimizer.parts[0].layers.values()]
    before = {module: module.watch for module in Gains(net).maps}
    health = Health(net, optimizer=optimizer)
    health.before()
    with Gains(net).measured():
        NextToken().terms(net, ids())["loss"].value.backward()
    assert before == {module: module.watch for module in Gains(net).maps}
    assert rows == [moments.rows for moments in optimizer.parts[0].layers.values()]


def linear(slope: float, noise: float, rows: int, seed: int) -> torch.Tensor:
    """Gradients [row, weight] of a linear model whose true gradient is `slope` in each of 50 weights, and whose covariance
    is noise^2 times the identity."""
    return slope + noise * normal(rows, 50, seed=seed)


def test_the_noise_scale_of_known_gradients_is_found():
    noise = NoiseScale(decay=0.999)
    for seed in range(300):
        gradients = linear(0.6, 2.0, 8, seed)
        noise.add(gradients[0].square().sum().item(), 1, gradients.mean(0).square().sum().item(), 8)
    assert noise.variance == pytest.approx(50 * 2.0**2, rel=0.05)
    assert noise.square == pytest.approx(50 * 0.6**2, rel=0.1)
    assert noise.scale() == pytest.approx(2.0**2 / 0.6**2, rel=0.1)


def test_gradients_without_noise_have_scale_zero_and_without_signal_none_that_is_small():
    same, none = NoiseScale(), NoiseScale(decay=0.99)
    for seed in range(200):
        gradients = linear(0.3, 0.0, 8, seed)
        same.add(gradients[0].square().sum().item(), 1, gradients.mean(0).square().sum().item(), 8)
        gradients = linear(0.0, 2.0, 8, seed)
        none.add(gradients[0].square().sum().item(), 1, gradients.mean(0).square().sum().item(), 8)
    assert same.scale() == pytest.approx(0, abs=1e-5)
    assert none.scale() is None or none.scale() > 200


def test_a_row_is_measured_and_nothing_else_changes():
    net = NET.build(0)
    optimizer, batch = Stepper(net, KFAC(momentum=0.0)), TokenBatch(ids(rows=4))
    NextToken().terms(net, batch)["loss"].value.backward()
    norm = optimizer.clip_gradient()
    before = [p.grad.clone() for p in net.parameters()]
    rows = [moments.rows for moments in optimizer.parts[0].layers.values()]
    noise = BatchNoise(net, lambda given: NextToken().terms(net, given)["loss"].value + torch.rand(()) * 0, every=1)
    state = torch.get_rng_state()
    noise.before(batch, norm)
    record = noise.record(batches=2)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(p.grad, old) for p, old in zip(net.parameters(), before, strict=True))
    assert rows == [moments.rows for moments in optimizer.parts[0].layers.values()]
    optimizer.zero_grad()
    NextToken().terms(net, batch.row(0))["loss"].value.backward()
    small = sum(p.grad.square().sum().item() for p in net.parameters())
    large = norm**2  # before it was clipped
    assert record["gradient_square"] == pytest.approx((8 * large - small) / 7, rel=1e-4)
    assert record["gradient_variance"] == pytest.approx((small - large) / (1 - 1 / 8), rel=1e-4)


def test_collapsed_attention_and_updates_that_are_too_large_are_named():
    net = NET.build(0)
    health = Health(net)
    health.before()
    limits = AdamW().limits()
    assert alarms(health.record(1, ids()[:, :-1], 1.0), limits) == []
    with torch.no_grad():
        for name, p in net.layers[1].mix.named_parameters():
            p.mul_(100.0 if "qkv" in name else 1.0)  # nearly one-hot
    health.before()
    found = alarms(health.record(2, ids()[:, :-1], 1.0) | {"update_ratio": [0.001, 0.04, 0.001]}, limits)
    assert found == ["update_ratio[1]", "attention_entropy[1]"]


def test_collapse_of_the_stream_outliers_dead_units_and_large_logits_are_named():
    net = LM(vocab=20, width=24, body=Stack(2, Block(Attention(2), MLP("relu", hidden=20, bias=True)))).build(0)
    with torch.no_grad():
        net.layers[0].map.inner.bias[:12] = -1e3
        net.layers[0].map.outer.weight[5] *= 1e3  # one channel holds all variance
        net.unembed_weight().mul_(100.0)
    health = Health(net)
    health.before()
    found = alarms(health.record(1, ids()[:, :-1], 1.0), AdamW().limits())
    assert found == [
        *("dead_units[0]", "logit_norm", "rank[1]", "rank[2]"),
        *("kurtosis[1]", "kurtosis[2]", "gain[0]"),  # what the one channel is written by amplifies
    ]


def test_limits_of_a_class_are_added_to_those_of_its_bases():
    @dataclass(frozen=True)
    class Ranked(Muon):
        usual_limits: ClassVar = {"rank": (2.0, 10.0)}
        usual_update_ratio = 0.5

    base = Optimizer.usual_limits
    assert Ranked().limits() == {**base, **Muon.usual_limits, "rank": (2.0, 10.0), "update_ratio": (0.0, 0.5)}
    assert Ranked().limits()["gain"] != AdamW().limits()["gain"] == base["gain"]


def test_a_run_logs_them(new_run):
    recipe = tiny_recipe(run__steps=40, log__every=7)
    run = new_run("run", recipe)
    list(Trainer.start(recipe, run))
    metrics, health = run.read_log("metrics"), run.read_log("health")
    trained = [r for r in metrics if "loss" in r]
    assert all(0 < r["update_norm"] <= r["update_norm_max"] for r in trained)
    gaps = [r["val_gap"] for r in metrics if "val_loss" in r and r["step"]]
    assert gaps and all(abs(gap) < 1 for gap in gaps)
    assert health[-1]["limits"]["rank"] == [recipe.optimizer.limits()["rank"][0], None]
    assert all(len(r["rank"]) == len(r["kurtosis"]) == len(r["weight_norm"]) == len(r["gain"]) + 1 == 3 for r in health)
    assert [("gradient_square" in r) for r in health] == [False, False, False, True] * 2
