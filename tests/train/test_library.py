"""Optimisers of a library by name: of torch, of the extra, of an imported module; what cannot be resumed is refused."""

from __future__ import annotations

import sys

import pytest
import torch
from test_resume import fingerprint
from tiny_training import tiny_recipe

from cloche.errors import ClocheError
from cloche.part import part_from_line
from cloche.train import AdamW, Library, Optimizer, Recipe, Stepper, Trainer, check_fits


class Counting(torch.optim.SGD):
    """Keeps Python numbers: a count of each parameter, and one of each group."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["steps"] = group.get("steps", 0) + 1
            for p in group["params"]:
                state = self.state[p]
                state["seen"], state["pair"] = state.get("seen", 0) + 1, [torch.ones(2) * group["steps"], 0.5]
                p.data.sub_(p.grad / (state["seen"] + group["steps"]), alpha=group["lr"])


class Hidden(Counting):
    """Keeps a count where nothing finds it."""

    steps = 0

    def step(self, closure=None):
        self.steps += 1
        for group in self.param_groups:
            for p in group["params"]:
                p.data.sub_(p.grad / self.steps, alpha=group["lr"])


class Odd(Counting):
    """Keeps an object."""

    def step(self, closure=None):
        super().step()
        self.state[self.param_groups[0]["params"][0]]["history"] = {"a": 1}


def line(name: str, settings: str = "") -> str:
    return f"Library('{__name__}:{name}', '{settings}', lr=0.01)"


def test_it_steps_as_the_class_does_on_the_declared_groups():
    nets = [tiny_recipe().model.build(0) for _ in range(2)]
    ours = Stepper(
        nets[0],
        part_from_line("Library('torch.optim:AdamW', 'betas=(0.9, 0.95)', lr=0.01, weight_decay=0.1)", Optimizer),
    )
    theirs = Stepper(nets[1], AdamW(lr=0.01))
    for seed in range(3):
        for net, stepper in zip(nets, (ours, theirs), strict=True):
            torch.manual_seed(seed)
            for p in net.parameters():
                p.grad = torch.randn_like(p)
            stepper.step()
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_numbers_and_lists_in_its_state_go_through_a_resumed_run(new_run):
    recipe = tiny_recipe(optimizer=line("Counting"), run__steps=8).with_set(
        {"optimizer.groups": ["Group('embed', lr=0.1)"]}
    )
    assert Recipe.parse(recipe.to_toml()) == recipe
    straight, broken = new_run("straight", recipe), new_run("broken", recipe)
    list(Trainer.start(recipe, straight))
    trainer = Trainer.start(recipe, broken)
    for record in trainer:
        if record["step"] == 5:
            trainer.stop()
    resumed = Trainer.resume(broken)
    embedding = resumed.optimizer.parts[0].state[resumed.net.embed.weight]
    assert embedding["seen"] == resumed.step and isinstance(embedding["pair"], list) and embedding["pair"][1] == 0.5
    assert [group["steps"] for group in resumed.optimizer.groups] == [resumed.step] * 3
    list(resumed)
    assert fingerprint(broken) == fingerprint(straight)
    with pytest.raises(ClocheError, match=r"trained by Library\(test_library:Counting\)"):
        Trainer.resume(broken, {"optimizer": "Library('torch.optim:Adamax')", "run.steps": "9"})


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (line("Hidden"), "cannot be resumed exactly"),
        (line("Odd"), "keeps 'history' of first.bias as a dict"),
        ("Library('torch.optim:LBFGS')", "in a trial it raised ValueError"),
        ("Library('torch.optim:Muon')", "only supports 2D parameters"),
        ("Library('torch.optim:Adamx')", "no torch optimiser; did you mean 'Adamax'"),
        ("Library('torch.optim:Adam', 'beta=3')", "no setting 'beta'; did you mean 'betas'"),
        ("Library('torch.optim:Adam', 'lr=3')", "give lr as a field"),
        ("Library('torch.optim:Rprop', weight_decay=0.1)", "no setting 'weight_decay'"),
        ("Library('planted_library:Lion')", "--import planted_library"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_before_anything_is_read(written, words):
    with pytest.raises(ClocheError, match=words) as caught:
        check_fits(tiny_recipe(optimizer=written))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "written", ["Library('Lion')", "Library('torch.optim:Adam', 'open()')", "Library('torch.optim:Adam', '1')"]
)
def test_what_is_no_name_or_setting_is_one_sentence(written):
    with pytest.raises(ClocheError, match="must"):
        part_from_line(written, Optimizer)


def test_reading_a_recipe_imports_nothing_and_a_missing_extra_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)  # as if it were not installed
    recipe = tiny_recipe(optimizer="Library('pytorch_optimizer:Lion')")
    assert Recipe.parse(recipe.to_toml()) == recipe
    with pytest.raises(ClocheError, match=r"needs pytorch_optimizer: pip install 'cloche\[optimizers\]'"):
        check_fits(recipe)


def test_a_class_of_the_extra_trains_and_resumes(new_run):
    pytest.importorskip("pytorch_optimizer")
    recipe = tiny_recipe(optimizer="Library('pytorch_optimizer:Lion', 'betas=(0.9, 0.98)', lr=0.002)", run__steps=20)
    straight, broken = new_run("straight", recipe), new_run("broken", recipe)
    list(Trainer.start(recipe, straight))
    losses = [r["loss"] for r in straight.read_log("metrics") if "loss" in r]
    assert losses[-1] < losses[0]
    trainer = Trainer.start(recipe, broken)
    for record in trainer:
        if record["step"] == 10:
            trainer.stop()
    list(Trainer.resume(broken))
    assert fingerprint(broken) == fingerprint(straight)


@pytest.mark.slow
def test_which_classes_of_the_extra_can_be_used():
    """Most can; the others say why, and none raises anything else."""
    library = pytest.importorskip("pytorch_optimizer")
    usable, refused = [], {}
    for name, value in sorted(vars(library).items()):
        if (
            isinstance(value, type)
            and issubclass(value, torch.optim.Optimizer)
            and value.__module__.startswith("pytorch_optimizer")
        ):
            try:
                Stepper(torch.nn.Linear(4, 2), Library(f"pytorch_optimizer:{name}"))
                usable.append(name)
            except ClocheError as error:
                refused[name] = str(error)
    assert {"Lion", "Adan", "Lamb", "Prodigy", "CAME"} <= set(usable) and {"SAM", "SOAP"} <= set(refused)
    assert len(usable) > 2 * len(refused), refused
