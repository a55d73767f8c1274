"""A third party's mixer with a site of its own, and bodies that iterate: trained, saved, loaded, resumed as ours are."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import torch
from test_resume import fingerprint
from tiny_training import tiny_recipe

import cloche
from cloche.errors import ClocheError
from cloche.model import GLU, MLP, Attention, Block, Body, Stack
from cloche.runs import verify
from cloche.train import Recipe, Trainer
from third_party import Convolution, Loop, TwoSpeed

ATTENTION, CONVOLUTION = (Block(mix, MLP(hidden=24)) for mix in (Attention(heads=2), Convolution()))
BODIES = {
    "loop": Loop(3, Block(Attention(heads=2), GLU("silu", hidden=24))),
    "two speeds": TwoSpeed(cycles=2, steps=1, fast=CONVOLUTION, slow=ATTENTION),
}


def recipe_with(body: Body) -> Recipe:
    recipe = tiny_recipe()
    return recipe.model_copy(update={"model": dataclasses.replace(recipe.model, body=body)})


@pytest.mark.parametrize("name", BODIES)
def test_it_trains_saves_loads_and_resumes_to_the_same_bytes(new_run, name):
    recipe = recipe_with(BODIES[name])
    straight, broken = new_run("straight", recipe), new_run("broken", recipe)
    list(Trainer.start(recipe, straight))
    metrics = [record for record in straight.read_log("metrics") if "loss" in record]
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    for record in (trainer := Trainer.start(recipe, broken)):
        if record["step"] == 10:
            trainer.stop()
    list(Trainer.resume(broken))
    assert fingerprint(broken) == fingerprint(straight)
    assert verify(broken.path).problems == []
    glass = cloche.load(straight.path)
    assert glass.net.spec.body == BODIES[name]
    iterations = len(glass.net.layers)
    result = glass.run("the glass", save="resid_post.all")
    assert len(result["resid_post.all"]) == iterations
    plain, edited = (
        glass.generate(glass.ids("the ")[0], new=8, edits=edits).ids
        for edits in ((), [glass.sites.resid_post[iterations - 1].scale(-1.0)])
    )
    assert not torch.equal(plain, edited)
    health = straight.read_log("health")[-1]
    assert len(health["attention_entropy"]) == len(health["activation_density"]) == iterations
    assert len(health["resid_variance"]) == len(health["update_ratio"]) == iterations + 1


def test_a_site_of_its_own_is_looked_at_in_a_trained_run(new_run):
    recipe = recipe_with(BODIES["two speeds"])
    run = new_run("run", recipe)
    list(Trainer.start(recipe, run))
    glass = cloche.load(run.path)
    assert [site.iteration for site in glass.sites.conv_out] == ["fast 0.0", "fast 1.0"]
    assert glass.run("the glass", save="conv_out[2]")["conv_out[2]"].shape[-1] == 32
    quiet = glass.run("the glass", save="attn_out[0]", edits=[glass.sites.conv_out[0].zero()])
    assert not quiet["attn_out[0]"].any()
    entropy = run.read_log("health")[-1]["attention_entropy"]
    assert [len(heads) for heads in entropy] == [0, 2, 0, 2]  # a convolution has no pattern


def test_mfu_is_that_of_the_unrolled_stack(new_run):
    block = BODIES["loop"].block
    flops = {}
    for name, body in (("loop", BODIES["loop"]), ("stack", Stack(3, block)), ("one", Stack(1, block))):
        recipe = recipe_with(body)
        flops[name] = Trainer.start(recipe, new_run(name, recipe)).setup.flops
    assert flops["loop"] == flops["stack"] > 1.5 * flops["one"]


def test_its_run_is_never_imported_unasked(new_run, tmp_path):
    recipe = recipe_with(BODIES["loop"]).with_set({"run.steps": 2})
    run = new_run("run", recipe)
    list(Trainer.start(recipe, run))
    code = "import sys, cloche\ntry: cloche.load(sys.argv[1])\nexcept cloche.ClocheError as e: print(e)"
    command = [sys.executable, "-c", code, str(run.path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "third_party:Loop" in said and "--import third_party" in said


def test_a_mixer_whose_pattern_is_its_own(new_run):
    """A monitor asks the mixer, whatever its sites are called."""
    from cloche.train import Health

    net = recipe_with(BODIES["two speeds"]).model.build(0)
    mix = net.layers[0].mix
    mix.pattern_reads = ("conv_out",)
    mix.pattern_rows = lambda rows, conv_out: (torch.full((2, 1, len(rows), 4), 0.25), torch.full((len(rows),), 4))
    health = Health(net)
    health.before()
    record = health.record(1, torch.randint(300, (2, 16), generator=torch.Generator().manual_seed(0)), 0.0)
    assert record["attention_entropy"][0] == pytest.approx([1.0])
    mix.pattern_reads = ("conv_uot",)
    with pytest.raises(ClocheError, match="no site 'conv_uot'"):
        health.record(2, torch.zeros(2, 16, dtype=torch.long), 0.0)
