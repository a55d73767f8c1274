"""Recipes: defaults, round trip, and refusals that name the key."""

import dataclasses
import inspect
import re
import tomllib

import pytest

from cloche.errors import ClocheError
from cloche.model import GLU, LM, MLP, Attention, Block, RoPE, Stack
from cloche.train import WSD, AdamW, Cosine, Muon, NextToken, Recipe, Stepper
from cloche.train.recipe.renamed import MOVED


def test_the_default_is_the_first_model():
    recipe = Recipe()
    assert (recipe.model.vocab, recipe.model.width, recipe.model.tied) == (4096, 192, False)
    assert 3.5e6 < sum(p.numel() for p in recipe.model.build(None).parameters()) < 4.5e6
    assert (recipe.run.length, recipe.run.batch, recipe.run.minutes, recipe.run.steps) == (256, 8, 5.0, None)
    assert list(tomllib.loads(recipe.to_toml())) == [
        "imports", "question", "data", "tokenizer", "rows", "model", "initialisation", "objective", "optimizer",
        "schedule", "run", "log", "evaluate", "checkpoint",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"run.steps": "200"},
        {"data.paths": '["a", "b c"]', "optimizer.part": "Muon"},
        {"run.minutes": 0.1, "run.seed": 7},
    ],
)
def test_toml_round_trip_is_exact(changes):
    recipe = Recipe().with_set(changes)
    assert Recipe.parse(recipe.to_toml()) == recipe
    assert Recipe.parse(recipe.to_toml()).to_toml() == recipe.to_toml()


def test_set_converts_by_type():
    recipe = Recipe().with_set({"run.steps": "200", "optimizer.lr": "1e-3", "data.glob": "*.py", "model.width": "128"})
    assert (recipe.run.steps, recipe.optimizer.lr, recipe.data.glob, recipe.model.width) == (200, 1e-3, "*.py", 128)
    assert recipe.run.minutes is None
    assert recipe.with_set({"run.minutes": "2"}).run.steps is None


def test_set_reaches_into_the_model():
    recipe = Recipe().with_set({"model.body.depth": "2", "model.body.block.map": {"part": "MLP", "activation": "relu"}})
    assert recipe.model.body.depth == 2
    assert recipe.model.body.block.map == MLP("relu")


def test_a_vocabulary_alone_shapes_the_model():
    assert Recipe.parse("[tokenizer]\nvocab = 1024").model.vocab == 1024


def test_load_reads_a_file(tmp_path):
    (tmp_path / "r.toml").write_text("[run]\nsteps = 3")
    assert Recipe.load(tmp_path / "r.toml").run.steps == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[run]\nstesp = 3", ["[run]", "'stesp'", "steps"]),
        ("[runs]\nsteps = 3", ["[runs]", "did you mean [run]?"]),
        ("[run]\nsteps = 0", ["[run]", "steps = 0", "greater than or equal to 1"]),
        ("[run]\nsteps = 'many'", ["[run]", "steps = 'many'", "integer"]),
        ("[optimizer]\npart = 'Sgd'", ["[optimizer]", "unknown Optimizer 'Sgd'"]),
        ("[optimizer]\nlr = nan", ["Muon(lr=nan)", "finite"]),
        ("[optimizer]\npart = 'WSD'", ["[optimizer]", "Optimizer", "WSD"]),
        ("[model]\npart = 'LM'\nvocab = 100\nwidht = 3", ["[model]", "widht", "width"]),
        ("[model]\npart = 'Attention'\nheads = 2", ["[model]", "LM"]),
        ("run = 3", ["[run]"]),
        ("steps = 3", ["[steps]"]),
        ("[run\nsteps", ["not TOML"]),
    ],
)
def test_mistakes_are_named_in_one_line(text, words):
    with pytest.raises(ClocheError) as caught:
        Recipe.parse(text, "my.toml")
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("key", ["steps", "run.steps.more", "nowhere.steps"])
def test_set_refuses_what_is_no_key(key):
    with pytest.raises(ClocheError):
        Recipe().with_set({key: "3"})


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(ClocheError, match="no recipe"):
        Recipe.load(tmp_path / "none.toml")


@pytest.mark.parametrize("key", MOVED)
def test_a_key_that_moved_is_answered_with_its_new_name(key):
    """Also where an earlier recipe is opened by hand, or is that of a run."""
    section, name = key.split(".")
    for ask in (lambda: Recipe().with_set({key: "3"}), lambda: Recipe.parse(f"[{section}]\n{name} = 3", "old.toml")):
        with pytest.raises(ClocheError, match=f"\\[{section}\\] {name} is now {re.escape(MOVED[key])}"):
            ask()


def test_no_section_has_more_than_eight_fields():
    sections = [field.annotation for field in Recipe.model_fields.values()]
    counts = {s.__name__: len(getattr(s, "model_fields", ())) for s in sections if isinstance(s, type)}
    assert max(counts.values()) == counts["RunSection"] == 8
    own = [
        set(inspect.get_annotations(part)) & {field.name for field in dataclasses.fields(part)}
        for part in (Muon, AdamW, WSD, Cosine, NextToken)
    ]
    assert all(len(fields) <= 8 for fields in own)


def test_a_partial_recipe_is_completed_with_the_default():
    recipe = Recipe.parse(
        "[model]\nwidth = 96\n[model.body]\ndepth = 2\n[optimizer]\nlr = 0.01\n[schedule]\npart = 'Cosine'"
    )
    assert recipe == Recipe().with_set(
        {"model.width": 96, "model.body.depth": 2, "optimizer.lr": 0.01, "schedule.part": "Cosine"}
    )
    assert recipe.model.resolved().body.block.map.hidden == 256, "8/3 of the width"


def test_a_part_of_another_kind_takes_nothing_from_the_default():
    assert Recipe.parse("[optimizer]\npart = 'AdamW'").optimizer == AdamW()
    assert Recipe().with_set({"optimizer.part": "AdamW", "optimizer.lr": 0.1}).optimizer == AdamW(lr=0.1)
    mix = Recipe.parse("[model.body.block.mix]\npart = 'Attention'\nheads = 4").model.body.block.mix
    assert (mix.heads, mix.position) == (4, RoPE(theta=10_000.0)), "of the same kind it does"


def test_what_is_left_out_because_it_is_none_stays_none():
    block = Block(Attention(heads=2), GLU("gelu"))
    recipe = Recipe(model=LM(4096, 32, Stack(1, block)))
    assert Recipe.parse(recipe.to_toml()) == recipe


def test_a_list_accepts_one_value():
    assert Recipe().with_set({"data.paths": "books"}).data.paths == ["books"]
    assert Recipe.parse("[evaluate]\nprompts = 'the '").evaluate.prompts == ["the "]


def test_optimizer_lr_scales_all_groups():
    net = Recipe().with_set({"model.width": 48, "model.body.depth": 1}).model.build(0)
    one, half = (Stepper(net, Recipe().with_set({"optimizer.lr": lr}).optimizer).set_rate(1.0) for lr in (0.02, 0.01))
    assert one == pytest.approx({"matrix": 0.02, "rest": 0.006})
    assert half == pytest.approx({name: rate / 2 for name, rate in one.items()})
