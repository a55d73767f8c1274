"""Recipes: defaults, round trip, and refusals that name the key."""

import tomllib

import pytest

from cloche.errors import ClocheError
from cloche.model import MLP
from cloche.train import Recipe


def test_the_default_is_the_first_model():
    recipe = Recipe()
    assert (recipe.model.vocab, recipe.model.width, recipe.model.tied) == (4096, 192, False)
    assert 3.5e6 < sum(p.numel() for p in recipe.model.build(None).parameters()) < 4.5e6
    assert (recipe.run.length, recipe.run.batch, recipe.run.minutes, recipe.run.steps) == (256, 8, 5.0, None)
    assert list(tomllib.loads(recipe.to_toml())) == [
        "question", "data", "tokenizer", "model", "objective", "optimizer", "run",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"run.steps": "200"},
        {"data.paths": '["a", "b c"]', "optimizer.kind": "muon"},
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
        ("[runs]\nsteps = 3", ["[runs]", "question", "optimizer"]),
        ("[run]\nsteps = 0", ["[run]", "steps = 0", "greater than or equal to 1"]),
        ("[run]\nsteps = 'many'", ["[run]", "steps = 'many'", "integer"]),
        ("[optimizer]\nkind = 'sgd'", ["[optimizer]", "kind = 'sgd'", "'adamw'", "'muon'"]),
        ("[optimizer]\nlr = nan", ["[optimizer]", "lr", "finite"]),
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
