"""Recipes on the command line: printed, completed, and sizes without their consequences spelled out."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from cloche.cli.running.grow import sizes
from cloche.train import Recipe

Call = Callable[..., tuple[int, str, str]]


def test_the_default_recipe_is_printed_and_is_one(call: Call, tmp_path: Path) -> None:
    code, out, _ = call("recipe")
    assert code == 0 and Recipe.parse(out) == Recipe()
    assert json.loads(call("recipe", "--json")[1]) == tomllib.loads(out)


def test_a_partial_file_is_printed_whole(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[model]\nwidth = 96\n[data]\npaths = 'books'\n")
    _, out, _ = call("recipe", file, "--set", "run.steps=7", "optimizer=AdamW(lr=0.001)")
    recipe = Recipe.parse(out)
    assert (recipe.model.width, recipe.data.paths, recipe.run.steps) == (96, ["books"], 7)
    assert recipe.optimizer.to_line().startswith("AdamW(lr=0.001,")
    assert recipe.schedule == Recipe().schedule


@pytest.mark.parametrize(
    ("given", "heads", "hidden"),
    [
        ((256, None, None, None), 8, 682),
        ((192, 3, None, None), 6, 512),
        ((96, None, 2, None), 2, 256),
        ((66, None, None, 900), 6, 176),
    ],
)
def test_sizes_follow_from_the_width(given: tuple, heads: int, hidden: int) -> None:
    changes = {key: value for key, value in sizes(Recipe(), *given).items() if value is not None}
    model = Recipe().with_set(changes).model.resolved()
    mix, wide = model.body.block.mix, model.body.block.map
    assert (mix.heads, mix.kv_heads, wide.hidden) == (heads, heads, hidden)
    assert (model.width, model.body.depth, model.vocab) == (given[0], given[1] or 5, given[3] or 4096)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "optimizer=Muon(lr=nan)"), "nan"),
        (("--set", "optimizer=Muon(rate=1)"), "Muon has no field 'rate'"),
        (("--set", "optimizer=WSD"), "[optimizer] must be a Optimizer, and WSD is not one"),
        (("--set", "optimizer=my_parts:Sign"), "--import my_parts"),
        (("--set", "schedule=__import__('os').getcwd()"), "[schedule]"),
        (("--set", "optimizer.kind=muon"), "optimizer.part"),
        (("--set", "imports=os"), "section.key=value"),
    ],
)
def test_what_is_no_part_is_one_sentence(call: Call, words: tuple[str, ...], said: str) -> None:
    code, out, err = call("recipe", *words)
    assert (code, out, err.count("\n")) == (1, "", 1) and said in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--lr", "1e-3"), "No such option: --lr; it is a setting of the recipe: --set optimizer.lr=...; see"),
        (("--learning-rate=1",), "--set optimizer.lr=..."),
        (("--batch-size", "8"), "--set run.batch=..."),
        (("--steps", "8"), "--set run.steps=..."),
        (("--colour", "8"), "No such option: --colour"),
    ],
)
def test_a_setting_given_as_an_option_is_named(call: Call, words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    for verb in (("pretrain", "--out", tmp_path / "run"), ("resume", tmp_path), ("recipe",)):
        code, _, err = call(*verb, *words)
        assert (code, err.count("\n")) == (2, 1) and said in err and ("--set" in err) == ("--set" in said)
    assert "--set" not in call("verify", tmp_path, "--lr", 1)[2], "a command that changes no recipe"


@pytest.mark.parametrize(("section", "meant"), [("optimiser", "optimizer"), ("optimzer", "optimizer"), ("Run", "run")])
def test_a_misspelt_section_is_told_apart(call: Call, section: str, meant: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f"[{section}]\nlr = 0.1\n")
    for words in ((file,), ("--set", f"{section}.lr=0.1")):
        code, _, err = call("recipe", *words)
        assert code == 1 and f"there is no section [{section}]; did you mean [{meant}]?" in err
    assert "the sections are imports, question" in call("recipe", "--set", "zebra.lr=1")[2]


def test_a_recipe_that_cannot_be_built_is_refused_as_pretrain_does(call: Call, tmp_path: Path) -> None:
    code, out, err = call("recipe", "--set", "model.width=100")
    assert (code, out) == (1, "") and "does not divide the width 100" in err
    assert call("pretrain", "--out", tmp_path / "run", "--set", "model.width=100")[2] == err


def test_a_whole_model_brings_its_vocabulary(call: Call) -> None:
    line = "model=LM(300, 32, Stack(1, Block(Attention(2), GLU())))"
    recipe = Recipe.parse(call("recipe", "--set", line)[1])
    assert (recipe.model.vocab, recipe.tokenizer.vocab, recipe.model.width) == (300, 300, 32)
    code, _, err = call("recipe", "--set", line, "tokenizer.vocab=400")
    assert code == 1 and "differ, but they must be equal" in err


def test_json_may_stand_before_the_verb(call: Call, tmp_path: Path) -> None:
    wanted = call("recipe", "--json", "--set", "run.steps=3")
    for words in (("--json", "recipe"), ("--import", "json", "--json", "recipe"), ("--json", "--debug", "recipe")):
        assert call(*words, "--set", "run.steps=3") == wanted
    code, out, _ = call("--json", "sae", "report", tmp_path)
    assert code == 1 and json.loads(out)["code"] == "RUN-MISSING"
