"""MuP: learning rates go through the optimiser's groups, and updates change activations alike at all widths."""

from __future__ import annotations

import pytest
import torch
from tiny_training import tiny_recipe

from cloche import GLU, LM, Attention, Block, Stack
from cloche.errors import PartInvalid
from cloche.model import FanIn, Initialisation, MuP, Normal, keep_neurons
from cloche.runs import Run
from cloche.train import SGD, AdamW, Group, Muon, NextToken, Optimizer, Recipe, Stepper, Trainer, check_fits, total_loss

VOCAB = 64


def network(width: int, how: Initialisation):
    spec = LM(VOCAB, width, Stack(2, Block(Attention(width // 16), GLU(hidden=2 * width))))
    return spec.build(0, how)


def stepper(net, part: Optimizer, how: Initialisation) -> Stepper:
    return Stepper(net, part, rates=how.rates(net, part.width_powers, type(part).__name__))


def test_rates_go_through_the_groups_and_decay_stays() -> None:
    how = MuP(base_width=32)
    built = stepper(network(64, how), AdamW(lr=0.01, weight_decay=0.1), how)
    assert built.set_rate(1.0) == {"rest": 0.01, "matrix": 0.005}
    assert built.shrink() == {"shrink_matrix": pytest.approx(1 - 0.001)}
    assert stepper(network(64, how), Muon(lr=0.01), how).set_rate(1.0) == {"matrix": 0.01, "rest": 0.003}
    assert stepper(network(32, how), AdamW(lr=0.01), how).set_rate(1.0) == {"rest": 0.01, "matrix": 0.01}
    own = AdamW(lr=0.01, groups=(Group("unembed", scale=2.0),))
    assert stepper(network(64, how), own, how).set_rate(1.0) == {"rest": 0.01, "matrix": 0.005, "unembed": 0.01}


def test_factors_that_differ_within_a_group_split_it() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 2, bias=False))
    built = Stepper(net, AdamW(lr=0.1), rates={"1.weight": 0.5})
    assert built.set_rate(1.0) == {"matrix": 0.1, "matrix_x0.5": 0.05}


@pytest.mark.parametrize(("name", "decay"), [("Adam", 0.2), ("AdamW", 0.4)])
def test_a_decay_in_the_gradient_is_left_as_it_is(name: str, decay: float) -> None:
    class Plain(Optimizer):
        def build(self, net: torch.nn.Module, dtype: torch.dtype = torch.float32) -> list[torch.optim.Optimizer]:
            return [getattr(torch.optim, name)(net.parameters(), lr=self.lr, weight_decay=0.2)]

    built = Stepper(torch.nn.Linear(4, 4, bias=False), Plain(lr=0.1), rates={"weight": 0.5})
    assert [(group["lr"], group["weight_decay"]) for group in built.groups] == [(0.05, decay)]


def test_factors_outlast_the_removal_of_neurons() -> None:
    how = MuP(base_width=32)
    net = network(64, how)
    built = stepper(net, AdamW(lr=0.01, weight_decay=0.1), how)
    expected = built.set_rate(1.0), built.shrink()
    built.resized(net, keep_neurons(net, {"body.layers.0.map": torch.arange(100)}))
    assert (built.set_rate(1.0), built.shrink()) == expected == ({"rest": 0.01, "matrix": 0.005}, expected[1])


def test_an_optimiser_that_does_not_say_how_its_rates_depend_on_width_is_refused() -> None:
    recipe = tiny_recipe(model__tied=False, initialisation="MuP", optimizer="SGD")
    with pytest.raises(PartInvalid, match="SGD does not say"):
        check_fits(recipe)
    check_fits(recipe.with_set({"initialisation": "FanIn"}))
    assert SGD.width_powers is None


def test_an_old_recipe_without_the_section_is_fan_in() -> None:
    text = tiny_recipe().to_toml()
    section = '[initialisation]\npart = "FanIn"\n'
    assert section in text
    assert Recipe.parse(text.replace(section, "")) == tiny_recipe()
    assert Recipe.parse(text).with_set({"initialisation": "Normal(std=0.05)"}).initialisation == Normal(std=0.05)


def test_a_run_starts_with_the_recipe_s_initialisation(new_run, tiny: Recipe) -> None:
    recipe = tiny.with_set({"initialisation": "Normal(std=0.05)"})
    run = new_run("a", recipe)
    net = Trainer.start(recipe, run).net
    assert net.embed.weight.std().item() == pytest.approx(0.05, rel=0.02)
    assert Recipe.parse(Run.open(run.path).recipe).initialisation == Normal(std=0.05)


def changes(width: int, how: Initialisation, part: Optimizer, steps: int = 3) -> tuple[float, float]:
    """RMS of what some updates change in the stream after the last layer, and in the logits."""
    net = network(width, how)
    optimizer, ids = stepper(net, part, how), torch.randint(VOCAB, (16, 33), generator=torch.Generator().manual_seed(1))
    sites = [net.sites.resid_post[1], net.sites.logits]
    before = net.run(ids[:, :-1], save=sites)
    optimizer.set_rate(1.0)
    for _ in range(steps):
        optimizer.zero_grad()
        total_loss(NextToken().terms(net, ids)).backward()
        optimizer.step()
    after = net.run(ids[:, :-1], save=sites)
    stream, logits = (float((after[site] - before[site]).square().mean().sqrt()) for site in sites)
    return stream, logits


@pytest.mark.parametrize("part", [AdamW(lr=0.004, weight_decay=0.0), Muon(lr=0.01, weight_decay=0.0)])
def test_coordinates_change_alike_at_all_widths(part: Optimizer) -> None:
    narrow, wide = (changes(width, MuP(base_width=32), part) for width in (64, 256))
    for a, b in zip(narrow, wide, strict=True):
        assert 1 / 1.6 < b / a < 1.6
    if isinstance(part, AdamW):  # the control: with the standard parametrisation they grow
        assert changes(256, FanIn(), part)[1] > 2 * changes(64, FanIn(), part)[1]
