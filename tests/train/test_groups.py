"""Groups: in text and back, over any optimiser, logged, resumed exactly; and what is wrong with one is said before training."""

from __future__ import annotations

import own_parts
import pytest
import torch
from test_resume import fingerprint
from tiny_training import tiny_recipe

from cloche.errors import ClocheError
from cloche.part import part_from_line
from cloche.train import AdamW, Group, Muon, Optimizer, Recipe, Stepper, Trainer, check_fits, check_model

EMBED = "[\"Group(match='embed', lr=0.01)\"]"


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer.groups": EMBED},
        {"optimizer.groups": ["Group('embed', 0.01)"]},
        {"optimizer.groups": '[{part = "Group", match = "embed", lr = 0.01}]'},
        {"optimizer": "Muon(groups=[Group('embed', lr=0.01)])"},
    ],
)
def test_every_spelling_is_the_same_value_and_goes_through_toml(settings):
    recipe = tiny_recipe().with_set(settings)
    assert recipe.optimizer == Muon(groups=(Group("embed", lr=0.01),))
    assert Recipe.parse(recipe.to_toml()) == recipe
    assert part_from_line(recipe.optimizer.to_line(), Optimizer) == recipe.optimizer
    assert Recipe.parse(f"[optimizer]\ngroups = {EMBED}").optimizer == recipe.optimizer


def named(stepper: Stepper) -> dict[str, dict]:
    return {group["name"]: group for group in stepper.groups}


@pytest.mark.parametrize("part", [Muon, AdamW, own_parts.Sign])
def test_a_group_takes_its_parameters_out_of_those_of_any_optimiser(part):
    net = tiny_recipe().model.build(0)
    groups = (Group("embed", lr=0.5), Group("layers.0.m*.out", scale=0.25), Group("vector", scale=2.0))
    plain, split = Stepper(net, part(lr=0.1)), Stepper(net, part(lr=0.1, groups=groups))
    before = {id(p): group for group in plain.groups for p in group["params"]}
    now = {id(p): group for group in split.groups for p in group["params"]}
    assert before.keys() == now.keys()
    wanted = dict.fromkeys(before, 1.0)
    wanted |= {id(net.body.layers[0].mix.out.weight): 0.25}
    wanted |= {id(p): 2.0 for _, p in net.groups()["vector"]}
    for p in net.parameters():
        rate = 0.5 if p is net.embed.weight else before[id(p)]["lr"] * wanted[id(p)]
        assert now[id(p)]["lr"] == pytest.approx(rate)
        assert {k: v for k, v in now[id(p)].items() if k not in ("params", "lr", "name")} == {
            k: v for k, v in before[id(p)].items() if k not in ("params", "lr", "name")
        }
    rates = split.set_rate(0.5)
    assert rates["embed"] == 0.25 and {"layers_0_m_out", "vector"} <= rates.keys()


def test_decay_and_betas_are_its_own():
    net = torch.nn.Linear(3, 2)
    stepper = Stepper(net, AdamW(groups=(Group("weight", weight_decay=0.5, beta2=0.99), Group("bias", beta1=0.5))))
    assert named(stepper)["weight"]["weight_decay"] == 0.5
    assert named(stepper)["weight"]["betas"] == (0.9, 0.99) and named(stepper)["bias"]["betas"] == (0.5, 0.95)


def test_a_rate_of_zero_leaves_weights_as_they_are_and_the_others_move_as_without_it():
    nets = [tiny_recipe().model.build(0) for _ in range(2)]
    start = nets[0].embed.weight.clone()
    for net, part in zip(nets, (AdamW(), AdamW(groups=(Group("embed", lr=0.0),))), strict=True):
        stepper = Stepper(net, part)
        for seed in range(2):
            torch.manual_seed(seed)
            for p in net.parameters():
                p.grad = torch.randn_like(p)
            stepper.step()
    for (name, p), q in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(p, q) == (name != "embed.weight"), name
    assert torch.equal(nets[1].embed.weight, start)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ("[\"Group('embd', lr=1.0)\"]", ["'embd') matches no parameter", "nearest are embed.weight"]),
        ("[\"Group('qvk', lr=1.0)\"]", ["matches no parameter", "nearest are body.layers.0.mix.qkv.weight"]),
        ("[\"Group('bed', lr=1.0)\"]", ["matches no parameter", "whole dotted parts"]),
        (
            "[\"Group('layers.1', lr=1.0)\", \"Group('vector', lr=2.0)\"]",
            ["'layers.1'", "'vector'", "both match body.layers.1.mix_norm.weight"],
        ),
        ("[\"Group('embed', momentum=0.5)\"]", ["sets momentum, which Muon does not have", "leave it out"]),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_read(groups, words):
    recipe = tiny_recipe(optimizer__groups=groups)
    for check in (check_fits, check_model):
        with pytest.raises(ClocheError) as caught:
            check(recipe)
        assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ("[\"Group('embed')\"]", "changes nothing"),
        ("[\"Group('embed', lr=1.0, scale=2.0)\"]", "both lr and scale"),
        ("[\"Group('embed', lr=-1.0)\"]", "between 0 and 1000"),
        ("[\"Grup('embed', lr=1.0)\"]", "did you mean 'Group'"),
        ("[\"Group('embed', rate=1.0)\"]", "no field 'rate'"),
        ('[{match = "embed", lr = 1.0}]', 'such as part = "Group"'),
        ("\"Group('embed')\"", "must be a list"),
        ('["AdamW"]', "AdamW is not one"),
    ],
)
def test_what_is_no_group_is_one_sentence(groups, words):
    with pytest.raises(ClocheError, match=words):
        tiny_recipe(optimizer__groups=groups)
    with pytest.raises(ClocheError, match="must be Groups"):
        AdamW(groups="embed")


@pytest.mark.parametrize("optimizer", ["Muon", "Sign(lr=0.002)"])
def test_they_are_logged_and_a_broken_run_ends_in_the_same_bytes(new_run, optimizer):
    recipe = tiny_recipe(optimizer=optimizer, run__steps=8).with_set({"optimizer.groups": EMBED})
    straight, broken = new_run("straight", recipe), new_run("broken", recipe)
    list(Trainer.start(recipe, straight))
    first = next(r for r in straight.read_log("metrics") if "loss" in r)
    assert 0 < first["lr_embed"] <= 0.01 and first["lr_embed"] != first["lr"]
    trainer = Trainer.start(recipe, broken)
    for record in trainer:
        if record["step"] == 5:
            trainer.stop()
    list(Trainer.resume(broken))
    assert fingerprint(broken) == fingerprint(straight)
    list(Trainer.resume(broken, {"optimizer.groups": "[\"Group('vector', lr=0.1)\"]", "run.steps": "10"}))
    last = [r for r in broken.read_log("metrics") if "loss" in r][-1]
    assert "lr_vector" in last and "lr_embed" not in last, "groups may change when a run goes on"
