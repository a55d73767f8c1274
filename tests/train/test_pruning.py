"""Neurons that are removed: nothing else changes, optimiser and checkpoint follow, and a teacher's number of them is found."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

from cloche.errors import ClocheError
from cloche.model import (
    GLU,
    LM,
    MLP,
    Attention,
    Block,
    MoE,
    Stack,
    hidden_layers,
    keep_neurons,
    load_network,
    save_network,
)
from cloche.runs import verify
from cloche.train import (
    EMA,
    KFAC,
    SGD,
    SOAP,
    AdamW,
    Muon,
    NextToken,
    Penalised,
    Pruning,
    Shampoo,
    Stepper,
    Trainer,
    total_loss,
)

IDS = torch.randint(40, (3, 9), generator=torch.Generator().manual_seed(0))
OBJECTIVE = "Penalised(penalties=[ActivationL1(weight=0.01)], prune=Pruning(every=4, below=0.5, keep=8))"


def network(*maps, **settings):
    return LM(40, 16, Stack(len(maps), tuple(Block(Attention(2), each) for each in maps)), **settings).build(seed=0)


def silenced(net, layer, neurons):
    """The network with outer columns of zero, so that removing them changes nothing."""
    with torch.no_grad():
        {x.name: x for x in hidden_layers(net)}[layer].outer.weight[:, neurons] = 0
    return net


@pytest.mark.parametrize(
    "map", [MLP(hidden=24), MLP("relu", hidden=24, bias=True), GLU(hidden=24), GLU(hidden=24, bias=True)]
)
def test_removing_what_nothing_reads_changes_nothing(map, tmp_path):
    name, kept = "body.layers.1.map", torch.tensor([0, 2, 3, 7, 20])
    gone = [i for i in range(24) if i not in kept.tolist()]
    net = silenced(network(map, map), name, gone)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
        net.layers[1].map.outer.weight[:, gone] = 0
    before, parameters = net(IDS).detach(), dict(net.named_parameters())
    act = net.run(IDS, save="mlp_act[1]")["mlp_act[1]"]
    left = keep_neurons(net, {name: kept})
    torch.testing.assert_close(net(IDS), before, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(net.run(IDS, save="mlp_act[1]")["mlp_act[1]"], act[..., kept])
    assert all(parameters[full] is p for full, p in net.named_parameters())
    assert (
        [block.map.hidden for block in net.spec.body.blocks]
        == [24, 5]
        == [net.layers[i].part.map.hidden for i in (0, 1)]
    )
    for full, p in net.named_parameters():
        axis, size, indices = left.get(full, (0, len(p), torch.arange(len(p))))
        assert p.shape[axis] == len(indices) <= size
    assert net.declarations().keys() == network(map, map).declarations().keys()
    assert all(sum(declared.blocks.values()) in (0, len(parameters[n])) for n, declared in net.declarations().items())
    fresh = net.spec.build(0)
    fresh.load_state_dict(net.state_dict())
    torch.testing.assert_close(fresh(IDS), net(IDS))
    assert fresh.flops_per_token(8) == net.flops_per_token(8) < network(map, map).flops_per_token(8)
    save_network(net, tmp_path / "pruned")  # and its sites are proved when it is loaded
    assert torch.equal(load_network(tmp_path / "pruned")(IDS), net(IDS))


@pytest.mark.parametrize("optimizer", [AdamW(lr=0.01), Muon(lr=0.01), SGD(lr=0.01, momentum=0.9)])
def test_a_step_after_pruning_is_the_larger_networks_on_what_is_left(optimizer):
    """Neurons that nothing reads and that read nothing have no gradient: the steps before and after their removal are the
    same for all other weights. Muon alone takes the whole matrix: there the state and its shapes are compared."""
    kept = torch.tensor([0, 2, 3, 7, 20])
    nets = [network(GLU(hidden=24), GLU(hidden=30)) for _ in range(2)]
    steppers, optimizer = [], dataclasses.replace(optimizer, clip=1e6)
    for net in nets:
        with torch.no_grad():
            gone = torch.ones(24, dtype=torch.bool)
            gone[kept] = False
            net.layers[0].map.outer.weight[:, gone] = 0
            net.layers[0].map.inner.weight[gone.repeat(2)] = 0
        steppers.append(Stepper(net, optimizer))

    def step(net, stepper):
        stepper.set_rate(1.0)
        stepper.zero_grad()
        total_loss(NextToken().terms(net, IDS)).backward()
        stepper.step()

    for net, stepper in zip(nets, steppers, strict=True):
        step(net, stepper)
    left = keep_neurons(nets[1], {"body.layers.0.map": kept})
    before = {name: value.clone() for name, value in steppers[0].state().items()}
    assert steppers[1].resized(nets[1], left) == []
    after = steppers[1].state()
    assert after.keys() == before.keys()
    for full, value in after.items():
        part = left.get(full.rpartition("/")[0])
        sliced = part is not None and value.ndim
        assert torch.equal(value, before[full].index_select(part.axis, part.indices) if sliced else before[full]), full
    for net, stepper in zip(nets, steppers, strict=True):
        step(net, stepper)
    if not isinstance(optimizer, Muon):
        theirs = dict(nets[0].named_parameters())
        for name, p in nets[1].named_parameters():
            whole = theirs[name].index_select(left[name].axis, left[name].indices) if name in left else theirs[name]
            torch.testing.assert_close(p, whole, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("map", [MLP(hidden=24, bias=True), GLU(hidden=24)])  # gate and up are stacked in one parameter
@pytest.mark.parametrize("optimizer", [Shampoo(lr=0.01, average=EMA(0.5)), SOAP(lr=0.01), KFAC(lr=0.01)])
def test_state_that_cannot_be_cut_begins_anew_and_training_goes_on(optimizer, map):
    net = network(map, MLP(hidden=30))
    stepper = Stepper(net, optimizer)
    for left in (24, 20, 18):
        if left < 24:
            begun = stepper.resized(net, keep_neurons(net, {"body.layers.0.map": torch.arange(left)}))
            assert "body.layers.0.map.inner.weight" in begun and not any("layers.1" in name for name in begun)
        stepper.set_rate(1.0)
        stepper.zero_grad()
        total_loss(NextToken().terms(net, IDS)).backward()
        stepper.step()
    assert all(torch.isfinite(p).all() for p in net.parameters())
    with stepper.averaged():
        assert all(torch.isfinite(p).all() for p in net.parameters())


def test_rates_of_single_parameters_stay_what_they_were():
    net = network(MLP(hidden=24))
    stepper = Stepper(net, AdamW(lr=0.01), rates={"body.layers.0.map.inner.weight": 0.25})
    before = stepper.set_rate(1.0)
    assert sorted(before.values()) == [0.0025, 0.01, 0.01]
    stepper.resized(net, keep_neurons(net, {"body.layers.0.map": torch.arange(20)}))
    assert stepper.set_rate(1.0) == before


def trained(new_run, name, recipe, stop=None):
    run = new_run(name, recipe)
    trainer = Trainer.start(recipe, run)
    for record in trainer:
        if record["log"] == "metrics" and record["step"] == stop:
            trainer.stop()
    return run


def hashes(run):
    files = run.checkpoint("last").manifest["files"]
    return {name: files[name]["sha256"] for name in ("model.safetensors", "optimizer.safetensors", "config.json")}


def test_a_pruned_run_stopped_and_resumed_ends_in_the_same_bytes(new_run, tiny):
    recipe = tiny.with_set({"objective": OBJECTIVE, "run.steps": 12, "log.every": 1, "log.health_every": 3})
    recipe = recipe.with_set({"evaluate.samples": 0, "evaluate.validations": 1, "checkpoint.count": 1})
    whole = trained(new_run, "whole", recipe)
    sizes = [(r["step"], r["hidden"]) for r in whole.read_log("pruning")]
    assert [step for step, _ in sizes] == [4, 8, 12] and 48 > sizes[0][1][0] >= sizes[-1][1][0] >= 8
    events = [event for event in whole.read_log("events") if event["kind"] == "prune"]
    assert "for x0." in events[0]["message"] and "hidden neurons (body.layers.0.map 48 -> " in events[0]["message"]
    config = json.loads((whole.checkpoint("last").path / "config.json").read_text())["cloche"]
    blocks = config["body"]["block"]
    assert [block["map"]["hidden"] for block in (blocks if isinstance(blocks, list) else [blocks] * 2)] == sizes[-1][1]
    assert verify(whole.path).problems == []
    part = trained(new_run, "part", recipe, stop=6)
    assert part.checkpoint("last").step == 6
    list(Trainer.resume(part))
    assert hashes(part) == hashes(whole)
    assert [(r["step"], r["hidden"]) for r in part.read_log("pruning")] == sizes
    assert verify(part.path).problems == []


def test_what_cannot_be_pruned_is_one_sentence():
    experts = network(MoE(experts=2, active=1, expert=GLU(hidden=8)))
    with pytest.raises(ClocheError, match="is not the map of a block"):
        keep_neurons(experts, {"body.layers.0.map.experts.0": torch.arange(2)})
    net = network(MLP(hidden=8))
    with pytest.raises(ClocheError, match=r"No neuron would be left in body\.layers\.0\.map"):
        keep_neurons(net, {"body.layers.0.map": torch.tensor([], dtype=torch.long)})
    with pytest.raises(
        ClocheError, match=r"layers\.9 is no hidden layer of this network; there are body\.layers\.0\.map"
    ):
        keep_neurons(net, {"layers.9": torch.arange(2)})
    with pytest.raises(ClocheError, match="finds no hidden layer"):
        Penalised(prune=Pruning()).prune.check(nn.Linear(2, 1))


@pytest.mark.slow
def test_a_teachers_number_of_neurons_is_found():
    """A student of 256 learns from a teacher of 32. Controls: without a penalty most of the 256 stay, and as many as the
    teacher has, chosen at random, do far worse after the same training (bench/train/pruning.py has L2 and more seeds)."""
    from bench.train.pruning import PENALTIES, at_random, loss, student

    found, all_of_them = (student(PENALTIES[name], 4000, 0) for name in ("knee", "no penalty"))
    left, most = (hidden_layers(net)[0].size for net in (found, all_of_them))
    assert abs(left - 32) <= 2 and most > 200, (left, most)
    whole = loss(all_of_them, 0)
    assert loss(found, 0) < 1.01 * whole
    at_random(all_of_them, left, 0)
    assert loss(all_of_them, 0) > 2 * whole
